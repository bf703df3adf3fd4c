"""Real training runs that publish what they made, on good and bad days of the Hub."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback_hub.faults import FAULTS, no_faults, outage, random_faults
from tests.loopback_hub.hub import TOKEN, Hub
from tests.loopback_hub.server import loopback_hub
from tests.training.runs import ROOT, environment, rows, run_training, status, tiny_config, write_config

pytestmark = [pytest.mark.slow, pytest.mark.hub]

NAME = "somebody/digits"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with loopback_hub() as hub:
        yield hub


class Run:
    """A run in a folder of its own, whose path it is not told."""

    def __init__(self, place: Path, hub: Hub) -> None:
        self.place, self.output_dir, self.hub = place, place / "run", hub
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

    def train(self, **hub_block) -> int:
        block = {"push_to_hub": True, "hub_model_id": NAME, "push_retries": 3, **hub_block}
        write_config(self.place / "run.yaml", tiny_config(Path("run"), hub=block))
        return self._end(run_training(["--config", "run.yaml"], cwd=self.place, **self.variables))

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
        kept = [path.read_bytes() for path in self.output_dir.rglob("*") if path.is_file()]
        for content in [*self.hub.published(), *kept]:
            for secret in (TOKEN, str(self.place), str(Path.home()) + "/", str(ROOT)):
                assert secret.encode() not in content
        assert TOKEN not in self.said
        assert str(self.place) not in self.said


def test_an_outage_for_the_whole_run(tmp_path, hub):
    run = Run(tmp_path, hub)
    hub.schedule = outage
    assert run.train() == 76, run.said
    state = status(run.output_dir)
    assert (state["state"], state["exit_code"]) == ("push_pending", 76)
    assert "sd-pipeline push run" in state["message"]
    assert [row["step"] for row in rows(run.output_dir, "diffusion")] == [1, 2, 3, 4]
    assert hub.repositories == {}
    assert run.push() == 76
    hub.schedule = no_faults
    assert run.push() == 0, run.said
    assert status(run.output_dir)["state"] == "finished"
    run.check_published_once()
    number = len(hub.requests)
    assert run.train() == 0, "what is finished and pushed is left alone"
    assert len(hub.requests) == number
    run.check_published_once()
    run.check_secrets()


@pytest.mark.parametrize("seed", range(4))
def test_bad_days(tmp_path, hub, seed):
    run = Run(tmp_path, hub)
    kinds = [fault for fault in FAULTS.values() if fault.retry_after is None]
    hub.schedule = random_faults(seed, share=(0.1, 0.2, 0.3, 0.6)[seed], kinds=kinds)
    ended = run.train()
    assert ended in (0, 76), run.said
    assert [row["step"] for row in rows(run.output_dir, "diffusion")] == [1, 2, 3, 4]
    assert status(run.output_dir)["state"] == ("finished" if ended == 0 else "push_pending")
    hub.schedule = no_faults
    assert run.train() == 0, run.said
    run.check_published_once()
    run.check_secrets()


@pytest.mark.parametrize(
    ("block", "token", "fragment"),
    [
        ({}, "", "hf auth login"),
        ({"hub_model_id": "some body/digits"}, TOKEN, "some body/digits"),
        ({"hub_model_id": None}, TOKEN, "hub.hub_model_id"),
        ({"hub_model_id": "digits"}, TOKEN, "hub.hub_model_id = 'digits'"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_step(tmp_path, hub, block, token, fragment):
    run = Run(tmp_path, hub)
    run.variables["HF_TOKEN"] = token
    assert run.train(**block) == 2
    assert fragment in status(run.output_dir)["message"]
    assert hub.requests == []
    assert not (run.output_dir / "text_encoder").exists()
