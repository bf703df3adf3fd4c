"""Training runs that publish to a loopback Hub."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.loopback_hub.hub import TOKEN, Hub
from tests.secrets import leaks, leaks_of_folder, leaks_of_hub
from tests.training.runs import ROOT, environment, run_training, tiny_config, write_config

NAME = "somebody/digits"


class Run:
    """A run in a folder of its own, whose path it is not told."""

    def __init__(self, place: Path, hub: Hub, config: Callable[..., dict[str, Any]] = tiny_config) -> None:
        self.place, self.output_dir, self.hub, self.config = place, place / "run", hub, config
        self.variables = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(place / "home" / "hf"),
            "HOME": str(place / "home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.said = ""

    def train(self, *arguments: str, num_processes: int = 1, **hub_block: Any) -> int:
        block = {"push_to_hub": True, "hub_model_id": NAME, "push_retries": 3, **hub_block}
        write_config(self.place / "run.yaml", self.config(Path("run"), hub=block))
        command = ["--config", "run.yaml", *arguments]
        return self._end(run_training(command, num_processes, cwd=self.place, **self.variables))

    def push(self) -> int:
        command = [sys.executable, "-m", "sd_pipeline.cli", "push", "run", "--retries", "2"]
        variables = environment(**self.variables)
        return self._end(
            subprocess.run(
                command, env=variables, capture_output=True, text=True, cwd=self.place, timeout=200, check=False
            )
        )

    def _end(self, run: subprocess.CompletedProcess[str]) -> int:
        self.said += run.stdout + run.stderr
        return run.returncode

    def check_published_once(self) -> None:
        """Check that the Hub has the model, in one commit, and that no commit of main holds a part of it."""
        folder = self.output_dir / "pipeline"
        model = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        commits = self.hub.repositories[NAME].branches["main"]
        assert sum(c.description.startswith("Publication") for c in commits) == 1
        assert commits[-1].content.items() >= model.items()
        assert all(c.content.items() >= model.items() or not c.content.keys() & model.keys() for c in commits)

    def check_secrets(self) -> None:
        """Search everything that was published, logged or kept for the token and for local paths."""
        private = (TOKEN, str(self.place))
        assert leaks_of_hub(self.hub, private) == {}
        assert leaks_of_folder(self.output_dir, private) == {}
        assert leaks(self.said.encode(), private) == []
