"""The stages of a run, wired: what each trains on what, with the engine that trains anything."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs

from training.config import STAGES, ConfigError, TrainConfig
from training.config_io import check_resumable
from training.data.captioned_images import CaptionedImages
from training.data.catalogue import load_captioned_images
from training.data.labelled_catalogue import load_labelled_source
from training.data.labelled_source import LabelledSource
from training.data.training_images import TrainingImages
from training.engine.distribution import sharded_parts, wants_sharding
from training.engine.hardware import describe_hardware
from training.engine.interruption import StopSignal
from training.engine.run_folder import RunFolder
from training.engine.state_tensors import load_trained_tensors, trained_tensors
from training.engine.task import Task
from training.engine.tracking import MetricsLog
from training.engine.trainer import Trainer
from training.stage_card import CardMaker
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.components import load_frozen_models
from training.tasks.diffusion import DiffusionTask
from training.tasks.pretrained import frozen_models_of, load_pretrained
from training.tasks.segmentation import SegmentationTask
from training.tasks.segmentation_model import build_segmentation_unet, pixel_values_of
from training.tasks.text_encoder import TextEncoderTask


def load_data(config: TrainConfig) -> tuple[TrainingImages, TrainingImages | None]:
    """Load the training images and, if there are any, the held-out ones."""
    return load_labels(config) if config.segments else load_captions(config)


def load_captions(config: TrainConfig) -> tuple[CaptionedImages, CaptionedImages]:
    """Load captioned images, and those that are held out."""
    arguments = {**config.data.captioned(), "seed": config.seed}
    return load_captioned_images("train", **arguments), load_captioned_images("validation", **arguments)


def load_labels(config: TrainConfig) -> tuple[LabelledSource, LabelledSource]:
    """Load annotated images, and those that are held out."""
    with torch.device("meta"):
        unet = build_segmentation_unet(config).config
    of_data = ("dataset", "label_type", "image_column", "label_column", "on_bad_sample", "max_image_pixels")
    of_splits = ("num_samples", "validation_fraction", "dataset_revision", "dataset_config_name")
    arguments = {name: getattr(config.data, name) for name in (*of_data, *of_splits)} | {
        "num_classes": unet["num_classes"],
        "seed": config.seed,
        "check_image": partial(pixel_values_of, in_channels=unet["in_channels"]),
    }
    return load_labelled_source("train", **arguments), load_labelled_source("validation", **arguments)


def start_accelerator(config: TrainConfig) -> Accelerator:
    """Set up device, processes, precision and trackers; the configuration wins over the launcher's flags."""
    if config.mixed_precision == "fp16" and wants_sharding():
        raise ConfigError("mixed_precision = 'fp16': must be no or bf16 with FSDP, which has no gradient scaler")
    if wants_sharding() and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("the launcher asks for FSDP 1: fsdp_version must be 2 (configs/accelerate/fsdp2.yaml)")
    if config.hub.sends_while_training and wants_sharding():
        raise ConfigError(
            f"hub.hub_strategy = {config.hub.hub_strategy!r}: must be end with FSDP, where no process has all weights"
        )
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise ConfigError("the launcher asks for torch.compile, which is not supported: dynamo_backend must be no")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ConfigError(
            "the launcher asks for DeepSpeed, which is not supported; configs/accelerate/fsdp2.yaml shards too"
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.allow_tf32
    try:
        return Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=str(config.mixed_precision),
            # The trainer accumulates by itself; an explicit plugin keeps the launcher's setting out.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            # The main process validates and exports alone; the others may have to wait for long.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
            log_with=config.trackers or None,
            project_dir=str(Path(config.output_dir) / "logs"),
        )
    except ValueError as error:
        raise ConfigError(f"mixed_precision = {config.mixed_precision!r}: {error}") from error


def train_stage(
    stage: str,
    config: TrainConfig,
    folder: RunFolder,
    accelerator: Accelerator,
    stop_signal: StopSignal,
    build_task: Callable[[], Task],
    datasets: tuple[TrainingImages, TrainingImages | None] | None = None,
    after_save: Callable[[Task, int], None] | None = None,
) -> None:
    """Train one stage from its newest training state, and put its output in place, with a card if there are data."""
    started = time.monotonic()
    task = build_task()
    trainer = Trainer(
        task,
        config.stage(stage),
        accelerator,
        folder.stage(stage),
        MetricsLog(folder.metrics_file),
        stop_signal,
        seed=config.seed,
        config=dataclasses.asdict(config),
        check_resumable=lambda saved, place: check_resumable(saved, config, place),
        num_workers=config.data.dataloader_num_workers,
        after_save=after_save,
    )
    before = time.monotonic() - started
    trainer.fit()
    if sharded_parts(task.model):
        # An export needs whole weights, which a sharded network cannot be turned back into.
        weights = trained_tensors(task.model)
        task = build_task()
        load_trained_tensors(task.model, weights)
    if accelerator.is_main_process:
        seconds = before + trainer.seconds
        hardware = describe_hardware(accelerator.device, accelerator.num_processes)
        record = {"step": trainer.step, "seconds": seconds, "hardware": hardware}

        def export(aside: Path) -> None:
            task.export(aside)
            if datasets is not None:
                CardMaker(config, folder, record, *datasets).write(aside, task)

        folder.finish(stage, export, trainer.step, seconds, hardware)
    accelerator.wait_for_everyone()


def build_task(
    stage: str,
    config: TrainConfig,
    folder: RunFolder,
    device: torch.device,
    dataset: TrainingImages,
    validation_dataset: TrainingImages | None,
) -> Task:
    """Build what a stage trains, upon what the earlier stages have made."""
    if not isinstance(dataset, CaptionedImages):
        assert not isinstance(validation_dataset, CaptionedImages)
        with PartialState().main_process_first():  # The others read the weight maps that it computes.
            return SegmentationTask(config, dataset, validation_dataset)
    assert validation_dataset is None or isinstance(validation_dataset, CaptionedImages)
    if stage == "text_encoder":
        return TextEncoderTask(config, dataset, validation_dataset)
    if stage == "autoencoder":
        clip = folder.result("text_encoder") / "clip"
        return AutoencoderTask(config, dataset, validation_dataset, clip if clip.is_dir() else None, device)
    pretrained = load_pretrained(config)
    if pretrained is not None:
        return DiffusionTask(config, dataset, frozen_models_of(pretrained, device), pretrained, validation_dataset)
    made = {s: folder.result(s) if folder.record(s) is not None else None for s in STAGES[:2]}
    frozen = load_frozen_models(made["text_encoder"], made["autoencoder"], device)
    return DiffusionTask(config, dataset, frozen, validation_dataset=validation_dataset)
