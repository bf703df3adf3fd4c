"""This package's training, stopped between updates: the real tasks and the real loop, some updates at a time."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.compared_models import UNET_11M
from benchmarks.machine import ROOT
from benchmarks.measurement import Conditions
from training.config import DiffusionConfig, StageConfig, TrainConfig
from training.config_io import parse_config
from training.data.captioned_images import CaptionedImages, CaptionedSample, SampleKey
from training.data.catalogue import load_captioned_images
from training.engine.interruption import StopSignal
from training.engine.memory import ALL_MEMORY, keep_freed_memory
from training.engine.sampling_order import GlobalBatchSampler
from training.engine.task import Batch, Task
from training.engine.tracking import MetricsLog, StageReport
from training.engine.trainer import Trainer

NUM_IMAGES = 256

USUAL_MEMORY = 2**26
"""Bytes that a process keeps by default once glibc has freed large pieces: twice the largest piece of its heap."""


class FixedPrecision(Accelerator):  # type: ignore[misc]
    """An accelerator with a precision of its own; accelerate has one a process, and several are measured in turn.

    Args:
        precision (`str`): `"no"` or `"bf16"`.
        device (`torch.device`): Where networks compute.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        super().__init__(cpu=device.type == "cpu")
        self._precision = precision

    @property
    def mixed_precision(self) -> str:
        """The precision."""
        return self._precision

    @contextmanager
    def autocast(self, autocast_handler: Any = None) -> Iterator[None]:
        """Compute in that precision, as accelerate's own does.

        Args:
            autocast_handler (`AutocastKwargs`, *optional*): Unused.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            yield


class KeptImages(CaptionedImages):
    """Captioned images that are drawn and scaled once, and stay in memory as tensors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: dict[int, torch.Tensor] = {}

    def __getitem__(self, key: SampleKey | int) -> CaptionedSample:
        """Read one sample.

        Args:
            key (`tuple[int, int]` or `int`): Global sample number and index of the image, or one number for both.
        """
        number, index = key if isinstance(key, tuple) else (key, key)
        if index not in self._kept:
            self._kept[index] = super().__getitem__((number, index))["pixel_values"]
        caption = self.caption(number, index)
        return CaptionedSample(pixel_values=self._kept[index], caption=caption, index=index, sample_number=number)


class SteppedTrainer(Trainer):
    """The training loop, some updates at a time. Between them nothing is saved or validated.

    Args:
        task (`Task`): What is trained.
        settings (`StageConfig`): How.
        accelerator (`accelerate.Accelerator`): Device and precision.
        folder (`Path`): The rows of `metrics.jsonl` go there.
    """

    def __init__(self, task: Task, settings: StageConfig, accelerator: Accelerator, folder: Path) -> None:
        never = 10**9
        settings = dataclasses.replace(
            settings, max_train_steps=never, checkpointing_steps=never, validation_steps=never
        )
        metrics = MetricsLog(folder / "metrics.jsonl")
        super().__init__(task, settings, accelerator, folder, metrics, StopSignal(), 0, {}, lambda saved, place: None)
        for network in self.networks.values():
            network.wrapped.train()
        self._num_updates = 0
        self.kept_memory = ALL_MEMORY
        with redirect_stderr(io.StringIO()):  # The progress bar is drawn, and not seen.
            self._report = StageReport(
                task.name, 0, never, self.global_batch_size, accelerator, metrics, folder / "validation"
            )

    def advance(self, num_updates: int) -> None:
        """Make some updates.

        Args:
            num_updates (`int`): How many.
        """
        self._num_updates = num_updates
        keep_freed_memory(self.kept_memory)
        with suppress(StopIteration):  # The batches end, and with them the loop, which wanted more.
            self._train(self._report)

    def _batches(self, sampler: GlobalBatchSampler) -> Iterator[Batch]:
        return itertools.islice(super()._batches(sampler), self._num_updates)


def shapes_config(folder: Path, conditions: Conditions) -> TrainConfig:
    """Read configs/shapes.yaml, with a U-Net of 10.9 million weights whose text encoder is frozen.

    Args:
        folder (`Path`): Of the run.
        conditions (`Conditions`): When tiny, networks stay as they are and batches are of two images.
    """
    config = parse_config(
        ["--config", str(ROOT / "configs" / "shapes.yaml"), f"--output_dir={folder}", "--report_to=none"]
    )
    batch = {"train_batch_size": 2} if conditions.is_tiny else {}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, num_samples=2 if conditions.is_tiny else NUM_IMAGES),
        text_encoder=dataclasses.replace(config.text_encoder, thumbnail_weight=0.0, **batch),
        autoencoder=dataclasses.replace(config.autoencoder, **batch),
        diffusion=DiffusionConfig(
            unet={**UNET_11M, **{name: list(UNET_11M[name]) for name in UNET_11M if name.endswith("s")}},
            cache_latents=True,
            pre_compute_text_embeddings=True,
            timestep_sampling="stratified",
            **{"train_batch_size": 32, **batch},
        ),
    )


def kept_images(config: TrainConfig) -> KeptImages:
    """Load the images of a run, and keep them in memory.

    Args:
        config (`TrainConfig`): The run.
    """
    images = load_captioned_images("train", **config.data.captioned(), seed=config.seed)
    return KeptImages(images.source, images.resolution, seed=images.seed)
