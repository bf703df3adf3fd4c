"""Painting the surroundings of a hole alone, enlarged: a small hole in a large picture gets all its detail."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
from PIL import Image


@dataclass(frozen=True)
class MaskCrop:
    """A part of a picture.

    Args:
        rows (`slice`): Its rows.
        columns (`slice`): Its columns.
    """

    rows: slice
    columns: slice

    def cut(self, images: torch.Tensor) -> torch.Tensor:
        """Cut the part out.

        Args:
            images (`torch.Tensor` of shape `(num_images, channels, height, width)`): Images or masks.

        Returns:
            `torch.Tensor` of shape `(num_images, channels, crop_height, crop_width)`, of the same dtype.
        """
        return images[..., self.rows, self.columns]

    def paste(self, made: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Put a painted part back, at the size that it had.

        Args:
            made (`torch.Tensor` of shape `(num_images, channels, any, any)`): In [0, 1].
            images (`torch.Tensor` of shape `(num_images, channels, height, width)`): Whole, in [0, 1], float32.

        Returns:
            `torch.Tensor` of the shape of `images`: float32, in [0, 1], on the CPU.
        """
        pasted = images.clone()
        size = self.cut(images).shape[-2:]
        resized = F.interpolate(made.float().cpu(), size=size, mode="bicubic", antialias=True)
        pasted[..., self.rows, self.columns] = resized.clamp(0, 1)
        return pasted


def crop_around(masks: torch.Tensor, padding: int, height: int, width: int) -> MaskCrop:
    """Find the part of a picture that holds all holes, of the proportions of a size if possible, as diffusers does.

    Args:
        masks (`torch.Tensor` of shape `(num_masks, 1, mask_height, mask_width)`): 1 in the holes, else 0.
        padding (`int`): Pixels around the holes, at least 0.
        height (`int`): The size that the part will be painted at, in pixels.
        width (`int`): Likewise.

    Returns:
        `MaskCrop`: The part.
    """
    everywhere = masks.amax(dim=(0, 1))
    mask = Image.fromarray((everywhere * 255).to(torch.uint8).numpy())
    left, top, right, bottom = VaeImageProcessor.get_crop_region(mask, width, height, pad=padding)
    return MaskCrop(slice(top, bottom), slice(left, right))
