"""What a person sees of a training: progress bar, `metrics.jsonl`, trackers and validation pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from training.engine.checkpointing import write_text
from training.engine.task import Validation
from training.engine.trackers import track_picture, track_values


class MetricsLog:
    """Appends rows to `metrics.jsonl`: one JSON object a logged step, continued after a resume, no step twice.

    Args:
        file (`Path`): The file; made when the first row is written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, stage: str, step: int, **values: Any) -> None:
        """Append one row."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")

    def rewind(self, stage: str, step: int) -> int:
        """Drop a stage's rows after `step`, and a row that a crash cut: the steps are about to be done again.

        Returns:
            `int`: The stage's last step that had a row, dropped or not; 0 if none had.
        """
        if not self.file.is_file():
            return 0
        kept, last_step = [], 0
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row["stage"] == stage:
                last_step = max(last_step, row["step"])
            if row["stage"] != stage or row["step"] <= step:
                kept.append(line + "\n")
        write_text("".join(kept), self.file)
        return last_step


class StageReport:
    """Reports one stage, on the main process only; every method is silent on the others.

    Args:
        stage (`str`): Its name.
        step (`int`): Updates that are done.
        max_steps (`int`): Updates in all.
        global_batch_size (`int`): Images of an update.
        accelerator (`accelerate.Accelerator`): Its trackers get the numbers and pictures too.
        metrics (`MetricsLog`): The rows.
        picture_folder (`Path`): Where validation pictures go.
    """

    def __init__(
        self,
        stage: str,
        step: int,
        max_steps: int,
        global_batch_size: int,
        accelerator: Accelerator,
        metrics: MetricsLog,
        picture_folder: Path,
    ) -> None:
        self.stage = stage
        self.global_batch_size = global_batch_size
        self.accelerator = accelerator
        self.metrics = metrics
        self.picture_folder = picture_folder
        self.is_main = accelerator.is_main_process
        # Trackers cannot take back what they were given. Steps that are done again give the same numbers again.
        self._tracked_step = metrics.rewind(stage, step) if self.is_main else 0
        self._last_row = (step, time.monotonic())
        self._bar = tqdm(
            total=max_steps, initial=step, desc=stage, unit="step", disable=not self.is_main, dynamic_ncols=True
        )

    def advance(self) -> None:
        """Count one update."""
        self._bar.update()

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Write a logged step, with the images a second since the last one."""
        if not self.is_main:
            return
        last_step, last_time = self._last_row
        now = time.monotonic()
        rate = (step - last_step) * self.global_batch_size / max(now - last_time, 1e-9)
        self._last_row = (step, now)
        self._write(step, {**values, "images_per_second": rate})
        self._bar.set_postfix(loss=f"{values['loss']:.4f}", images_per_second=f"{rate:.1f}", refresh=False)

    def skipped(self, step: int) -> None:
        """Write down that the update was skipped, since its numbers were not finite."""
        if self.is_main:
            self.metrics.write(self.stage, step, skipped=True)

    def validation(self, step: int, validation: Validation) -> None:
        """Write a validation: a row, and pictures in a folder and to the trackers."""
        if not self.is_main:
            return
        if validation.metrics:
            self._write(step, {f"validation_{name}": value for name, value in validation.metrics.items()})
        self.picture_folder.mkdir(parents=True, exist_ok=True)
        for name, image in validation.images.items():
            image.save(self.picture_folder / f"{name}-{step}.png")
            if step > self._tracked_step:
                track_picture(self.accelerator.trackers, f"{self.stage}/{name}", image, step)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        self.metrics.write(self.stage, step, **values)
        if step > self._tracked_step:
            named = {f"{self.stage}/{name}": value for name, value in values.items()}
            track_values(self.accelerator.trackers, named, step)

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()
