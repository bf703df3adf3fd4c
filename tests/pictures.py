"""Pictures and masks for tests: noise, so that no pixel is like its neighbour."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

ROTATED_BY_EXIF = 6
EXIF_ORIENTATION = 0x0112


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def levels(width: int = 32, height: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Draw bytes of shape (height, width, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def picture(width: int = 32, height: int = 32, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Draw a picture, as it is seen of this size, in a mode of Pillow, or in RGB and turned by EXIF."""
    if mode == "I;16":
        values = np.random.default_rng(seed).integers(0, 65536, (height, width)).astype(np.uint16)
        return Image.fromarray(values)
    if mode == "EXIF":
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = ROTATED_BY_EXIF
        file = io.BytesIO()
        Image.fromarray(levels(height, width, seed=seed)).save(file, "png", exif=exif)
        return Image.open(file)
    if mode in ("RGBA", "LA"):
        return Image.fromarray(levels(width, height, 4, seed)).convert(mode)
    return Image.fromarray(levels(width, height, seed=seed)).convert(mode)


def as_picture(values: np.ndarray | torch.Tensor) -> Image.Image:
    """Show an array in [0, 1] of shape (height, width) as a picture in grey."""
    return Image.fromarray((np.asarray(values) * 255).astype(np.uint8))


def hole(
    width: int = 32, height: int = 32, left: int = 8, top: int = 8, right: int = 20, bottom: int = 24
) -> np.ndarray:
    """Make a mask that is 1 in a rectangle, of shape (height, width)."""
    mask = np.zeros((height, width), np.float32)
    mask[top:bottom, left:right] = 1
    return mask


def checkered_hole(cell: int = 4, seed: int = 1) -> np.ndarray:
    """Make a mask of 32x32 pixels that is 1 or 0 over whole cells at random."""
    cells = np.random.default_rng(seed).integers(0, 2, (32 // cell, 32 // cell))
    return np.kron(cells, np.ones((cell, cell))).astype(np.float32)
