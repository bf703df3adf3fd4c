"""The models that this package and diffusers are timed with: both have the same weights, scheduler and call."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.machine import ROOT

# Imported where they are used: a process whose memory is measured holds one of the two packages' pipelines only.
if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from sd_pipeline import SDPipeline

SHAPES = ROOT / "pretrained" / "shapes-64"
STUDENT = ROOT / "pretrained" / "shapes-64-student"
PROMPT = "a large red star above a small blue ring on a grey background"

# 10.9 million weights on latents of 16 x 16, as wide as the text encoder of shapes-64. All else is diffusers' default.
UNET_11M: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (64, 128, 192),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 128,
}


@dataclass(frozen=True)
class PipelinePair:
    """Two pipelines that are asked the same.

    Args:
        ours (`SDPipeline`): This package's.
        stock (`StableDiffusionPipeline`): diffusers'.
        call (`dict[str, Any]`): Steps, guidance and the like, for ours.
        stock_call (`dict[str, Any]`, *optional*): Those for diffusers; by default the same.
    """

    ours: SDPipeline
    stock: StableDiffusionPipeline
    call: dict[str, Any]
    stock_call: dict[str, Any] | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> PipelinePair:
        """Move both, and return the pair.

        Args:
            device (`torch.device`): Where to.
            dtype (`torch.dtype`): Of all weights.
        """
        pipelines: tuple[Any, ...] = (self.ours, self.stock)
        for pipeline in pipelines:
            pipeline.to(device, dtype)
            pipeline.set_progress_bar_config(disable=True)
        return self


def recommended_call(folder: Path) -> dict[str, Any]:
    """Read which steps, guidance and eta a model is at its best with.

    Args:
        folder (`Path`): Its repository.
    """
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return {key: value for key, value in index["_sd_pipeline"].items() if isinstance(value, int | float)}


def load_ours(folder: Path) -> SDPipeline:
    """Load a repository as this package does.

    Args:
        folder (`Path`): The repository.
    """
    from sd_pipeline import SDPipeline

    pipeline: SDPipeline = SDPipeline.from_pretrained(folder)
    return pipeline


def load_stock(folder: Path) -> StableDiffusionPipeline:
    """Load a repository as diffusers does.

    Args:
        folder (`Path`): The repository.
    """
    from diffusers import StableDiffusionPipeline

    pipeline: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(folder)
    return pipeline


def shapes_pair() -> PipelinePair:
    """Load the shipped model of scenes of shapes twice."""
    return PipelinePair(load_ours(SHAPES), load_stock(SHAPES), recommended_call(SHAPES))


def student_pair() -> PipelinePair:
    """Load the student that needs few steps, and its teacher in diffusers, each with its own recommended call."""
    return PipelinePair(load_ours(STUDENT), load_stock(SHAPES), recommended_call(STUDENT), recommended_call(SHAPES))


def pair_of_11m() -> PipelinePair:
    """Put a U-Net of `UNET_11M` with random weights beside the other parts of the shipped model, twice."""
    return PipelinePair(ours_of_11m(), stock_of_11m(), recommended_call(SHAPES))


def ours_of_11m() -> SDPipeline:
    """Return the one of this package. Its weights are those of the other."""
    from sd_pipeline import SDUNet2DConditionModel

    pipeline = load_ours(SHAPES)
    torch.manual_seed(0)
    unet: Any = SDUNet2DConditionModel(**UNET_11M)
    pipeline.register_modules(unet=unet.eval())
    return pipeline


def stock_of_11m() -> StableDiffusionPipeline:
    """Return the one of diffusers. Its weights are those of the other."""
    from diffusers import UNet2DConditionModel

    pipeline: Any = load_stock(SHAPES)
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(**UNET_11M)
    pipeline.register_modules(unet=unet.eval())
    loaded: StableDiffusionPipeline = pipeline
    return loaded


def draw(pipeline: Any, call: dict[str, Any], batch_size: int) -> Any:
    """Draw pictures of one prompt, each from a seed of its own.

    Args:
        pipeline (`SDPipeline` or `StableDiffusionPipeline`): Draws.
        call (`dict[str, Any]`): Steps, guidance and the like.
        batch_size (`int`): How many pictures.

    Returns:
        `np.ndarray` of shape `(batch_size, height, width, 3)`: In [0, 1], float32.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in range(batch_size)]
    return pipeline([PROMPT] * batch_size, generator=generators, output_type="np", **call).images
