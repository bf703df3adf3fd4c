"""From what a rehearsal measured: memory, disk, time and cost of the whole run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from training.config import TrainConfig
from training.diagnosis.finding import Finding, Level
from training.diagnosis.rehearsal import RehearsedStage
from training.engine.run_folder import RunFolder

_GIB = 2**30
# A state is written aside before an older one is removed.
_STATES_IN_FLIGHT = 1
# From here on a run may stop for want of it.
_SCARCE = 0.9


def memory_finding(stages: Sequence[RehearsedStage], device: torch.device) -> Finding:
    """Compare the peak of the rehearsal with what the device has."""
    peak = max(stage.peak_bytes for stage in stages)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = psutil.virtual_memory().total
    found = f"{peak / _GIB:.1f} GiB at most, of {total / _GIB:.1f} GiB"
    if peak < _SCARCE * total:
        return Finding(Level.FINE, "memory", found)
    mend = "lower train_batch_size and raise gradient_accumulation_steps, or set gradient_checkpointing"
    return Finding(Level.WARNING, "memory", found, mend)


def disk_finding(config: TrainConfig, stages: Sequence[RehearsedStage], cache_bytes: int) -> Finding:
    """Compare what the run will write with what the disk has free.

    Args:
        config (`TrainConfig`): The run.
        stages (sequence of `RehearsedStage`): What was measured.
        cache_bytes (`int`): Size of the latent cache.
    """
    total = cache_bytes
    for stage in stages:
        settings = config.stage(stage.stage)
        kept = settings.checkpoints_total_limit or -(-settings.max_train_steps // settings.checkpointing_steps)
        total += stage.checkpoint_bytes * (kept + _STATES_IN_FLIGHT) + 2 * stage.result_bytes
    folder = Path(config.output_dir).absolute()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    found = f"{total / _GIB:.2f} GiB will be written to {config.output_dir}, {free / _GIB:.1f} GiB are free"
    if total < _SCARCE * free:
        return Finding(Level.FINE, "disk", found)
    mend = "free some space, take another output_dir, or lower checkpoints_total_limit"
    return Finding(Level.ERROR if total > free else Level.WARNING, "disk", found, mend)


def time_finding(config: TrainConfig, stages: Sequence[RehearsedStage], price_per_hour: float | None) -> Finding:
    """Add the time of all updates up, and what it costs.

    Args:
        config (`TrainConfig`): The run.
        stages (sequence of `RehearsedStage`): What was measured, with one process.
        price_per_hour (`float`, *optional*): Of the machine.
    """
    run = RunFolder(Path(config.output_dir))
    parts, hours = [], 0.0
    for stage in stages:
        record = run.record(stage.stage)
        left = max(0, config.stage(stage.stage).max_train_steps - (record["step"] if record is not None else 0))
        hours += left * stage.seconds_per_step / 3600
        parts.append(f"{stage.stage} {left} x {stage.seconds_per_step:.3g} s")
    found = f"about {hours:,.1f} hours on one process like this one ({', '.join(parts)}), without validation"
    if price_per_hour is None:
        return Finding(Level.FINE, "time and cost", found, "nothing to do; --price_per_hour tells the cost")
    return Finding(Level.FINE, "time and cost", f"{found}; cost about {hours * price_per_hour:.2f}")


def latent_cache_bytes(num_images: int, latent_shape: Sequence[int]) -> int:
    """Return the size of a latent cache: mean and log-variance in float32.

    Args:
        num_images (`int`): Images in all.
        latent_shape (sequence of `int`): Channels, height and width of an image's latents.
    """
    channels, height, width = latent_shape
    return 2 * 4 * num_images * channels * height * width
