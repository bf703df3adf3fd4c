"""Images to segment, in whatever form, read with the full range of their values and in the network's channels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sd_pipeline.images import WHITE_OF_FLOATS
from sd_pipeline.pipelines.call_arguments import require
from sd_pipeline.pipelines.image_pages import count_pages, read_page, values_of_picture

ALLOWED = (
    "a PIL image, an array of shape (height, width) or (height, width, channels), the path of a file, or a list of "
    "these, not empty"
)
ALLOWED_DTYPES = "uint8, uint16 (both use their whole range), or floating point"

_GREY, _RGB, _RGBA = 1, 3, 4
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in grey (ITU-R BT.601), those of Pillow."""


def read_images(images: Any, in_channels: int) -> list[torch.Tensor]:
    """Read the images of a call. All are read, and so checked, before the first is segmented.

    Integers are divided by the largest value of their type. Floating point is taken to range up to the smallest of
    1, 255 and 65535 that holds the image's largest value, as in `sd_pipeline.images.to_rgb`.

    Args:
        images (`PIL.Image.Image`, `np.ndarray`, `str`, `os.PathLike` or a list of them): One image or several, of any
            size. Pictures are turned upright as EXIF says. Arrays `(height, width)` are grey, `(height, width,
            channels)` have the network's channels, or else are grey, RGB or RGBA.
        in_channels (`int`): Channels of the network. For 1 and 3, colours become grey and grey becomes RGB as needed,
            and RGBA is laid on white.

    Returns:
        `list[torch.Tensor]`: Each of shape `(in_channels, height, width)`, float32, in [0, 1], on the CPU.

    Raises:
        ValueError: If there is no image, or one is missing, damaged, empty, of another type or number of channels, or
            has values that are negative, not finite or beyond 65535.
    """
    is_list = isinstance(images, (list, tuple))
    entries: Sequence[Any] = images if is_list else [images]
    require(bool(entries), "images", images, ALLOWED)
    return [
        _read_image(image, in_channels, f"images[{number}]" if is_list else "images")
        for number, image in enumerate(entries)
    ]


def standardise(pixel_values: torch.Tensor, image_mean: float | None, image_std: float | None) -> torch.Tensor:
    """Shift and scale pixel values: (x - mean) / std.

    Args:
        pixel_values (`torch.Tensor` of shape `(channels, height, width)`): Floating point, in [0, 1].
        image_mean (`float`, *optional*): Without it and `image_std`, each image gets zero mean and unit variance, by
            its own mean and standard deviation over all pixels and channels; one without any contrast becomes zeros.
        image_std (`float`, *optional*): Positive.

    Returns:
        `torch.Tensor`: Of the same shape and dtype.
    """
    if image_mean is not None and image_std is not None:
        return pixel_values.sub(image_mean).div_(image_std)
    if pixel_values.min() == pixel_values.max():
        return torch.zeros_like(pixel_values)
    std, mean = torch.std_mean(pixel_values, correction=0)
    return pixel_values.sub(mean).div_(std.clamp_min(torch.finfo(std.dtype).tiny))


def _read_image(image: Any, in_channels: int, name: str) -> torch.Tensor:
    if isinstance(image, (str, os.PathLike)):
        values = _values_of_file(Path(image), name)
    elif isinstance(image, Image.Image):
        values = values_of_picture(image, name)
    else:
        require(isinstance(image, np.ndarray), name, f"of type {type(image).__name__}", ALLOWED)
        values = image
    shape = values.shape
    require(values.ndim in (2, 3) and 0 not in shape, name, f"of shape {shape}", f"{ALLOWED}, with at least one pixel")
    values = values[..., None] if values.ndim == 2 else values
    _check_channels(values.shape[-1], in_channels, name)
    fitted = _fit_channels(_unit_range(values, name), in_channels)
    return torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))


def _values_of_file(path: Path, name: str) -> np.ndarray:
    try:
        num_pages = count_pages(path)
        if num_pages > 1:
            raise ValueError(f"{path} has {num_pages} pages; allowed: one, or give them as a list of arrays")
        return read_page(path)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error


def _unit_range(values: np.ndarray, name: str) -> np.ndarray:
    kind = values.dtype.newbyteorder("=")
    is_integer = kind in (np.uint8, np.uint16)
    require(is_integer or kind.kind == "f", name, f"made of {kind}", ALLOWED_DTYPES)
    if is_integer:
        return _divided(values, np.iinfo(kind).max)
    require(bool(np.isfinite(values).all()), name, "not finite (NaN or infinity)", "finite")
    lowest, highest = float(values.min()), float(values.max())
    require(lowest >= 0 and highest <= 65535, name, f"from {lowest:g} to {highest:g}", "in [0, 65535]")
    white = next(white for white in WHITE_OF_FLOATS if highest <= white)
    return _divided(values, white)


def _divided(values: np.ndarray, white: int) -> np.ndarray:
    scaled = values.astype(np.float32)
    scaled /= np.float32(white)
    return scaled


def _check_channels(channels: int, in_channels: int, name: str) -> None:
    others = (_GREY, _RGB, _RGBA) if in_channels in (_GREY, _RGB) else ()
    allowed = " or ".join(str(number) for number in sorted({in_channels, *others}))
    require(channels in (in_channels, *others), name, f"of {channels} channels", f"of {allowed} channels")


def _fit_channels(values: np.ndarray, in_channels: int) -> np.ndarray:
    """Turn grey, RGB and RGBA in [0, 1], channels last, into what the network takes."""
    if values.shape[-1] == in_channels:
        return values
    if values.shape[-1] == _RGBA:
        alpha = values[..., _RGB:]
        values = values[..., :_RGB] * alpha + (1 - alpha)
    if in_channels == _GREY:
        return (values @ _LUMA)[..., None]
    return np.broadcast_to(values, (*values.shape[:2], in_channels))
