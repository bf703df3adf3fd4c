"""What the pipelines return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image


@dataclass
class SDPipelineOutput(BaseOutput):
    """Generated images.

    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`):
            As `output_type` says: `"pil"` a list of pictures; `"np"` an array of shape `(batch_size, height, width,
            channels)`, float32 in [0, 1]; `"pt"` a tensor of shape `(batch_size, channels, height, width)` in [0, 1];
            `"latent"` latents of shape `(batch_size, latent_channels, height, width)`, not decoded.
        nsfw_content_detected (`list[bool]`, *optional*): Which images a safety checker found unsafe and made
            black; `None` where there is no checker, or no image but latents.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    nsfw_content_detected: list[bool] | None = None
