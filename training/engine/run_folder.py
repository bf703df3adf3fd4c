"""The folder of a run: what is finished in it, and what may be written into it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.engine.checkpointing import flush, list_checkpoints, write_json
from training.engine.run_lock import RunFolderError, RunLock

# What may lie in a folder that holds no run yet, beside hidden files such as the lock: the status of a run that was
# refused, and the trackers' logs.
_HARMLESS = {"status.json", "logs"}


class RunFolder:
    """The output folder of a run.

    Args:
        path (`Path`): The folder; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.pipeline = path / "pipeline"
        self._lock: RunLock | None = None

    def check_usable(self) -> None:
        """Refuse a folder that cannot be written, or that holds something else than a run.

        Raises:
            RunFolderError: One line that says why.
        """
        existing = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise RunFolderError(f"output_dir = {str(self.path)!r}: {existing} is no folder that can be written")
        if self.path.exists() and not self.config_file.exists():
            names = {item.name for item in self.path.iterdir()} - _HARMLESS
            strangers = sorted(name for name in names if not name.startswith("."))
            if strangers:
                raise RunFolderError(
                    f"output_dir = {str(self.path)!r}: holds {strangers[0]!r} but no config.yaml, so it is no run of "
                    "this program; take an empty or a new folder"
                )

    def lock(self) -> None:
        """Keep other processes out until `release`, or the end of this process, whatever ends it.

        Raises:
            RunFolderError: If another process is in, or the folder cannot be written.
        """
        self._lock = RunLock(self.path)

    def release(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def stage(self, stage: str) -> Path:
        """Return the folder of a stage."""
        return self.path / stage

    def result(self, stage: str) -> Path:
        """Return the folder of a stage's finished output."""
        is_pipeline = stage in ("diffusion", "segmentation")
        return self.pipeline if is_pipeline else self.stage(stage) / "final"

    def record(self, stage: str) -> dict[str, Any] | None:
        """Return what is known of a finished stage (`step`, `seconds`, ...), or `None` where it is not finished."""
        file = self.stage(stage) / "finished.json"
        if not file.is_file() or not self.result(stage).is_dir():
            return None
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return content

    def is_finished(self, stage: str, max_train_steps: int) -> bool:
        """Say whether a stage is finished with as many steps as are wanted."""
        record = self.record(stage)
        return record is not None and record["step"] >= max_train_steps

    def has_begun(self, stage: str) -> bool:
        """Say whether a stage has a training state or a finished output."""
        return self.record(stage) is not None or bool(list_checkpoints(self.stage(stage)))

    def finish(
        self,
        stage: str,
        export: Callable[[Path], None],
        step: int,
        seconds: float,
        hardware: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the finished output of a stage aside, put it in place and record it.

        Args:
            stage (`str`): Its name.
            export (callable): Writes the output into the folder it is given.
            step (`int`): Updates it was trained for.
            seconds (`float`): Time that training took; the export's is added.
            hardware (`Mapping[str, Any]`, *optional*): What it was trained on, as `describe_hardware` tells it.
        """
        target = self.result(stage)
        aside = target.with_name(f".{target.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        self.stage(stage).mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            export(aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)  # Room for whoever has to write down why it failed.
            raise
        seconds += time.monotonic() - started
        replaced = target.with_name(f".{target.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        aside.rename(target)
        flush(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)
        record = {
            "stage": stage,
            "step": step,
            "seconds": round(seconds, 1),
            **({"hardware": hardware} if hardware else {}),
        }
        write_json(record, self.stage(stage) / "finished.json")
