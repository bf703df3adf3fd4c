"""Rehearsing a run: every stage takes a real update or two on a few images, with a save, a load and an export."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from training.config import TrainConfig
from training.data.training_images import TrainingImages
from training.engine.interruption import StopSignal
from training.engine.memory import peak_memory
from training.engine.run_folder import RunFolder
from training.stages import build_task, train_stage

_QUICK = 2.0
"""Seconds; where an update takes longer, one is enough."""


@dataclasses.dataclass(frozen=True)
class RehearsedStage:
    """What was measured of a stage.

    Args:
        stage (`str`): Its name.
        seconds_per_step (`float`): Of an update, with one process.
        checkpoint_bytes (`int`): Of a training state.
        result_bytes (`int`): Of the finished output.
        peak_bytes (`int`): Most memory in use so far, of the accelerator if there is one, else of the process.
    """

    stage: str
    seconds_per_step: float
    checkpoint_bytes: int
    result_bytes: int
    peak_bytes: int


def rehearse(
    config: TrainConfig, stage: str, folder: Path, accelerator: Accelerator, dataset: TrainingImages
) -> RehearsedStage:
    """Train a stage for one update, save, export, load the state again, and go on for another one if that is quick.

    Args:
        config (`TrainConfig`): The run.
        stage (`str`): What to rehearse; the stages before it have been, in the same folder.
        folder (`Path`): Where the rehearsal writes.
        accelerator (`accelerate.Accelerator`): Device and precision.
        dataset (`CaptionedImages` or `LabelledSource`): A few images.

    Returns:
        `RehearsedStage`: what was measured.
    """
    run = RunFolder(folder)

    def train(steps: int) -> float:
        """Train up to so many updates, from the newest training state on; return the time of all of them."""
        short = shortened(config, folder, steps)
        build = partial(build_task, stage, short, run, accelerator.device, dataset, dataset)
        train_stage(stage, short, run, accelerator, StopSignal(), build)
        state = run.stage(stage) / f"checkpoint-{steps}"
        return float(json.loads((state / "state.json").read_text(encoding="utf-8"))["seconds"])

    first = train(1)
    # The first update bears the costs of a beginning; where it is slow they do not matter, and a second one would.
    steps, seconds = (2, train(2) - first) if first < _QUICK else (1, train(1))
    return RehearsedStage(
        stage,
        max(seconds, 1e-3),
        _size_of(run.stage(stage) / f"checkpoint-{steps}"),
        _size_of(run.result(stage)),
        peak_memory(accelerator.device),
    )


def shortened(config: TrainConfig, folder: Path, steps: int) -> TrainConfig:
    """Make a run of a few steps out of a run, with the same models and batches.

    Args:
        config (`TrainConfig`): The run.
        folder (`Path`): Where the short one writes.
        steps (`int`): Updates of each stage.
    """
    if config.autoencoder.adversarial.scale > 0:
        adversarial = dataclasses.replace(config.autoencoder.adversarial, start_step=0)
        config = dataclasses.replace(
            config, autoencoder=dataclasses.replace(config.autoencoder, adversarial=adversarial)
        )
    changes = {"max_train_steps": steps, "checkpointing_steps": 1, "logging_steps": 1, "validation_steps": None}
    blocks: dict[str, Any] = {stage: dataclasses.replace(getattr(config, stage), **changes) for stage in config.stages}
    blocks["diffusion"] = dataclasses.replace(blocks.get("diffusion", config.diffusion), latent_cache_dir=None)
    blocks["evaluation"] = dataclasses.replace(config.evaluation, num_inference_steps=2)
    return dataclasses.replace(config, output_dir=str(folder), report_to="none", **blocks)


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
