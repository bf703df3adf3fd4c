"""The trainings that are timed side by side: one of this package and one of diffusers, from the same weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

from benchmarks.compared_models import SHAPES
from benchmarks.diffusers_training import DenoisingLoss, Loop, autoencoder_loss, contrastive_loss
from benchmarks.stepped_training import FixedPrecision, KeptImages, SteppedTrainer
from training.config import TrainConfig
from training.data.clip_tokenizer import tokenize
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.text_encoder import TextEncoderTask

Pair = tuple[SteppedTrainer, Loop]


def stock_diffusion(
    ours: SteppedTrainer, config: TrainConfig, images: KeptImages, accelerator: FixedPrecision
) -> Loop:
    """Build diffusers' training of the U-Net that one of ours starts from.

    Args:
        ours (`SteppedTrainer`): That one; its task gives weights, scheduler and tokenizer.
        config (`TrainConfig`): The run.
        images (`KeptImages`): Training images.
        accelerator (`FixedPrecision`): Device and precision.
    """
    task: Any = ours.task
    unet: Any = UNet2DConditionModel.from_config(task.unet.config)
    unet.load_state_dict(task.unet.state_dict())
    vae = AutoencoderKL.from_pretrained(SHAPES / "vae")
    text_encoder = CLIPTextModel.from_pretrained(SHAPES / "text_encoder")
    scheduler = DDPMScheduler.from_config(task.scheduler.config)
    loss = DenoisingLoss(unet, vae, text_encoder, scheduler, accelerator)
    settings = config.diffusion
    collate = partial(_collate, task.frozen.tokenizer)
    return Loop(
        unet, loss, images, collate, settings.train_batch_size, accelerator, settings.learning_rate, settings.ema_decay
    )


def _collate(tokenizer: Any, samples: Sequence[Any]) -> dict[str, torch.Tensor]:
    batch = {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}
    if tokenizer is not None:
        batch["input_ids"] = tokenize(tokenizer, [sample["caption"] for sample in samples])
    return batch


def text_encoder_pair(config: TrainConfig, images: KeptImages, precision: str, device: torch.device) -> Pair:
    """Build both trainings of CLIP.

    Args:
        config (`TrainConfig`): The run.
        images (`KeptImages`): Training images.
        precision (`str`): `"no"` or `"bf16"`.
        device (`torch.device`): Where networks compute.
    """
    settings, task = config.text_encoder, TextEncoderTask(config, images, None)
    model: Any = task.model
    clip = copy.deepcopy(model.clip)
    accelerator = FixedPrecision(precision, device)
    loss = contrastive_loss(clip, accelerator)
    collate = partial(_collate, task.tokenizer)
    loop = Loop(clip, loss, images, collate, settings.train_batch_size, accelerator, settings.learning_rate)
    return SteppedTrainer(task, settings, accelerator, Path(config.output_dir)), loop


def autoencoder_pair(config: TrainConfig, images: KeptImages, precision: str, device: torch.device) -> Pair:
    """Build both trainings of the autoencoder.

    Args:
        config (`TrainConfig`): The run.
        images (`KeptImages`): Training images.
        precision (`str`): `"no"` or `"bf16"`.
        device (`torch.device`): Where networks compute.
    """
    settings, task = config.autoencoder, AutoencoderTask(config, images, None)
    vae: Any = AutoencoderKL(**{"sample_size": config.data.resolution, **settings.vae})
    vae.load_state_dict(task.vae.state_dict())
    accelerator = FixedPrecision(precision, device)
    loss = autoencoder_loss(vae, settings.likelihood_std, settings.kl_scale, accelerator)
    collate, rate = partial(_collate, None), settings.learning_rate
    loop = Loop(vae, loss, images, collate, settings.train_batch_size, accelerator, rate, settings.ema_decay)
    return SteppedTrainer(task, settings, accelerator, Path(config.output_dir)), loop
