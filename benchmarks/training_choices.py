"""This package's training of the diffusion stage, as it is and with one of its choices for speed taken back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D as StockResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel as StockTransformer2DModel
from torch import nn

from benchmarks.compared_models import SHAPES
from benchmarks.stepped_training import USUAL_MEMORY, FixedPrecision, KeptImages, SteppedTrainer
from sd_pipeline.models.pixelwise_convolution import PixelwiseConv2d
from sd_pipeline.models.resnet_block import ResnetBlock2D
from sd_pipeline.models.small_map_convolution import SmallMapConv2d
from sd_pipeline.models.transformer_2d import Transformer2DModel
from sd_pipeline.models.unet_2d_condition import SDAttnProcessor
from training.config import TrainConfig
from training.engine.ema import AveragedWeights
from training.tasks.components import load_frozen_models
from training.tasks.diffusion import DiffusionTask


@dataclass(frozen=True)
class Run:
    """What a training of the diffusion stage is made of.

    Args:
        config (`TrainConfig`): The run.
        images (`KeptImages`): Training images.
        device (`torch.device`): Where networks compute.
        precision (`str`): `"bf16"` or `"no"`.
    """

    config: TrainConfig
    images: KeptImages
    device: torch.device
    precision: str = "bf16"

    def trainer(self) -> SteppedTrainer:
        """Build the task, upon the text encoder and the autoencoder of shapes-64, and its trainer."""
        task = DiffusionTask(self.config, self.images, load_frozen_models(SHAPES, SHAPES, self.device))
        accelerator = FixedPrecision(self.precision, self.device)
        return SteppedTrainer(task, self.config.diffusion, accelerator, Path(self.config.output_dir))


class DividedAttention(SDAttnProcessor):
    """Attention that ends with diffusers' division by 1.0."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Attend, and divide.

        Args:
            attn (`diffusers.models.attention_processor.Attention`): As in `SDAttnProcessor`.
            hidden_states (`torch.Tensor`): Likewise, and so are the others.
            args: As in `SDAttnProcessor`.
            kwargs: As in `SDAttnProcessor`.
        """
        return super().__call__(attn, hidden_states, *args, **kwargs) / attn.rescale_output_factor


class LoopedAverage(AveragedWeights):
    """The average of the weights as diffusers computes it by default."""

    def step(self) -> None:
        """Take the present weights into the average."""
        self._average.foreach = False
        self._average.step(self._own_parts())


def encoded_anew(run: Run, what: str) -> SteppedTrainer:
    """Encode every image or every caption in every step.

    Args:
        run (`Run`): With all choices.
        what (`str`): The key of the configuration that would have it done before training.
    """
    settings = dataclasses.replace(run.config.diffusion, **{what: False})
    return dataclasses.replace(run, config=dataclasses.replace(run.config, diffusion=settings)).trainer()


def in_float32(run: Run) -> SteppedTrainer:
    """Compute without autocast.

    Args:
        run (`Run`): With all choices.
    """
    return dataclasses.replace(run, precision="no").trainer()


def with_lower_attention(run: Run) -> SteppedTrainer:
    """Attend in the precision of autocast, with diffusers' processor.

    Args:
        run (`Run`): With all choices.
    """
    trainer = run.trainer()
    trainer.task.unet.set_attn_processor(AttnProcessor2_0())
    return trainer


def with_default_adamw(run: Run) -> SteppedTrainer:
    """Let torch choose the implementation of AdamW: on a CPU, one parameter after another.

    Args:
        run (`Run`): With all choices.
    """
    trainer = run.trainer()
    optimizer = trainer.network.optimizer
    groups = [{**group, "fused": None} for group in optimizer.param_groups]
    trainer.network.optimizer = torch.optim.AdamW(groups)
    return trainer


def with_looped_average(run: Run) -> SteppedTrainer:
    """Average one parameter after another.

    Args:
        run (`Run`): With all choices.
    """
    trainer = run.trainer()
    trainer.average = LoopedAverage(trainer.task.model, run.config.diffusion.ema_decay)
    return trainer


def with_divisions(run: Run) -> SteppedTrainer:
    """Divide by 1.0 wherever diffusers' blocks do.

    Args:
        run (`Run`): With all choices.
    """
    trainer = run.trainer()
    trainer.task.unet.set_attn_processor(DividedAttention())
    for module in trainer.task.unet.modules():
        if type(module) is ResnetBlock2D:
            module.__class__ = StockResnetBlock2D
    return trainer


def with_usual_memory(run: Run) -> SteppedTrainer:
    """Let memory that is freed go back to the system.

    Args:
        run (`Run`): With all choices.
    """
    trainer = run.trainer()
    trainer.kept_memory = USUAL_MEMORY
    return trainer


TAKEN_BACK: dict[str, Callable[[Run], SteppedTrainer]] = {
    "cached latents": partial(encoded_anew, what="cache_latents"),
    "captions encoded before training": partial(encoded_anew, what="pre_compute_text_embeddings"),
    "bfloat16 autocast": in_float32,
    "attention in float32 under autocast": with_lower_attention,
    "fused AdamW": with_default_adamw,
    "average of all weights at once": with_looped_average,
    "no division by 1.0": with_divisions,
    "freed memory kept": with_usual_memory,
}


STOCK_LAYERS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "1x1 convolutions as matrix products": (PixelwiseConv2d, nn.Conv2d),
    "sequences around transformers": (Transformer2DModel, StockTransformer2DModel),
    "gradients of small maps as matrix products": (SmallMapConv2d, nn.Conv2d),
}
"""Choices that are a kind of layer, and what it is made of."""


class WithStockLayers:
    """A trainer that leaves a choice out while it advances.

    It is the same trainer that is timed with the choice: how fast two with the same code are differs by up to 3%, as
    their weights lie elsewhere in memory.

    Args:
        trainer (`SteppedTrainer`): Of the diffusion stage.
        kind (`type`): Of the layers.
        stock (`type`): What they are for the time being.
    """

    def __init__(self, trainer: SteppedTrainer, kind: type[nn.Module], stock: type[nn.Module]) -> None:
        self.trainer = trainer
        self.kind, self.stock = kind, stock
        self.layers = [module for module in trainer.task.model.modules() if type(module) is kind]

    def advance(self, num_updates: int) -> None:
        """Make some updates.

        Args:
            num_updates (`int`): How many.
        """
        for layer in self.layers:
            layer.__class__ = self.stock
        self.trainer.advance(num_updates)
        for layer in self.layers:
            layer.__class__ = self.kind
