"""From an RGB picture to `pixel_values`: cropped, resized, in [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

TRANSFORMS_VERSION = 1
"""To be raised when a picture gives other `pixel_values`, here or in what makes it RGB: older latents are refused."""


def crop_and_resize(
    image: Image.Image, size: tuple[int, int], position: tuple[float, float] = (0.5, 0.5)
) -> Image.Image:
    """Crop a picture to the shape of `size`, keeping as much as fits, and resize it, with antialiasing (Lanczos).

    Crop and resize are one resampling, so that a long thin picture is never blown up whole. The filter reads across
    the edges of the crop, as it would if the whole picture were resized first.

    Args:
        image (`PIL.Image.Image`): The picture.
        size (`tuple[int, int]`): Width and height of the result, in pixels.
        position (`tuple[float, float]`, defaults to the centre):
            Where the crop lies along the width and the height: 0 is the left or upper end, 1 the right or lower one.

    Returns:
        `PIL.Image.Image`: the picture, in the same mode.
    """
    width, height = size
    # In this order of operations, a side that is kept whole is exact.
    if image.width * height > image.height * width:
        extent = (image.height * width / height, float(image.height))
    else:
        extent = (float(image.width), image.width * height / width)
    left, top = ((whole - part) * place for whole, part, place in zip(image.size, extent, position, strict=True))
    box = (left, top, left + extent[0], top + extent[1])
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


def to_pixel_values(image: Image.Image) -> torch.Tensor:
    """Scale the bytes of a picture: value / 127.5 - 1.

    Args:
        image (`PIL.Image.Image`): An RGB picture.

    Returns:
        `torch.Tensor` of shape `(3, height, width)`, float32, in [-1, 1].
    """
    channels_first = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(channels_first) / np.float32(127.5) - np.float32(1))
