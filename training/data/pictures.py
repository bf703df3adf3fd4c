"""From tensors back to pictures."""

from __future__ import annotations

import torch
from PIL import Image


def to_picture(pixel_values: torch.Tensor) -> Image.Image:
    """Turn pixel values into an 8-bit picture.

    Args:
        pixel_values (`torch.Tensor` of shape `(3, height, width)`): In [-1, 1]; what lies outside is clipped.

    Returns:
        `PIL.Image.Image`: RGB.
    """
    levels = ((pixel_values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
