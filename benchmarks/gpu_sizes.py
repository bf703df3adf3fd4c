"""The sizes that `gpu.py` measures at: Stable Diffusion 1.5, and one that a processor computes in a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import CLIPTextConfig

from benchmarks.kernel_counts import CAPTION_LENGTH, SD_1_5, work_of
from sd_pipeline import SDDDPMScheduler, SDUNet2DConditionModel

_VOCABULARY = 49408


@dataclass(frozen=True)
class Size:
    """What is trained and sampled from, and for how long.

    Args:
        unet (`dict[str, Any]`): Arguments of `SDUNet2DConditionModel`.
        text_encoder (`CLIPTextConfig`): Its width is `cross_attention_dim` of the U-Net.
        batch_size (`int`): Images of an update.
        warm_seconds (`float`): Training before time is taken, compilation not among it.
        timed_seconds (`float`): Training in which it is.
        sampled (`tuple[int, ...]`): Batch sizes of the sampler.
        num_inference_steps (`int`): Of the sampler.
    """

    unet: dict[str, Any]
    text_encoder: CLIPTextConfig
    batch_size: int
    warm_seconds: float
    timed_seconds: float
    sampled: tuple[int, ...]
    num_inference_steps: int

    def build_unet(self) -> SDUNet2DConditionModel:
        """Build the U-Net with random weights."""
        torch.manual_seed(0)
        unet: SDUNet2DConditionModel = SDUNet2DConditionModel(**self.unet)
        return unet

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what is denoised."""
        side = self.unet["sample_size"]
        return (4, side, side)

    def forward_flop(self) -> int:
        """Count the operations of a forward pass of the U-Net on one image."""
        with torch.device("meta"):
            unet: Any = SDUNet2DConditionModel(**self.unet)
            latents = torch.empty(1, *self.latent_shape)
            captions = torch.empty(1, CAPTION_LENGTH, self.unet["cross_attention_dim"])
            timesteps = torch.empty(1, dtype=torch.int64)
        with torch.no_grad():
            return work_of(lambda: unet(latents, timesteps, captions)).flop


def stable_diffusion_scheduler() -> SDDDPMScheduler:
    """Build the forward process of Stable Diffusion 1.5."""
    scheduler: SDDDPMScheduler = SDDDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    )
    return scheduler


def _text_encoder(hidden_size: int, num_layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=_VOCABULARY,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 64,
        bos_token_id=_VOCABULARY - 2,
        eos_token_id=_VOCABULARY - 1,
        pad_token_id=_VOCABULARY - 1,
    )


SIZES = {
    "sd-1.5": Size(
        unet=SD_1_5,
        text_encoder=_text_encoder(768, 12),
        batch_size=64,
        warm_seconds=60.0,
        timed_seconds=60.0,
        sampled=(1, 16),
        num_inference_steps=50,
    ),
    "tiny": Size(
        unet={
            "sample_size": 8,
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 64,
        },
        text_encoder=_text_encoder(64, 1),
        batch_size=4,
        warm_seconds=0.1,
        timed_seconds=0.3,
        sampled=(1, 2),
        num_inference_steps=4,
    ),
}
