"""Files of one image or, as a TIFF may be, of several pages: their values in full range."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from sd_pipeline.images import WIDE_MODES, to_rgb, upright
from sd_pipeline.pipelines.call_arguments import require

_GREY_MODES = ("1", "L", "LA", "La")


def count_pages(path: Path) -> int:
    """Count the images in a file, from its headers.

    Args:
        path (`Path`): Any.

    Returns:
        `int`: More than 1 for a TIFF of several pages only; of animations the first frame is the image.

    Raises:
        ValueError: If there is no such file, or it is no image.
    """
    with _opened(path) as (_, num_pages):
        return num_pages


def read_page(path: Path, page: int = 0) -> np.ndarray:
    """Read an image.

    Args:
        path (`Path`): The file.
        page (`int`, *optional*, defaults to 0): Which of its pages.

    Returns:
        `np.ndarray`: See `values_of_picture`.

    Raises:
        ValueError: If there is no such file, or it is damaged or no image.
    """
    with _opened(path) as (picture, num_pages):
        name = str(path) if num_pages == 1 else f"{path}, page {page}"
        try:
            picture.seek(page)
        except Exception as error:  # A damaged header can raise anything.
            raise ValueError(f"`{name}` cannot be read: {_first_line(error)}") from error
        return values_of_picture(picture, name)


def values_of_picture(picture: Image.Image, name: str) -> np.ndarray:
    """Read the values of a picture, upright.

    Args:
        picture (`PIL.Image.Image`): In any mode.
        name (`str`): For messages.

    Returns:
        `np.ndarray`: `(height, width)` if it is grey, uint8, or uint16 or float32 where there are more than 8 bits;
        else `(height, width, 3)`, uint8. What is transparent is white.

    Raises:
        ValueError: If it has no pixels or is damaged.
    """
    require(0 not in picture.size, name, f"of {picture.width}x{picture.height} pixels", "of at least 1x1")
    try:
        if picture.mode in WIDE_MODES:
            return _wide_grey(picture)
        values = np.asarray(to_rgb(picture))
    except Exception as error:  # Damaged pixels can raise anything.
        raise ValueError(f"`{name}` cannot be read: {_first_line(error)}") from error
    return values[..., 0] if picture.mode in _GREY_MODES else values


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, int]]:
    """Open a file and count its pages."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with warnings.catch_warnings():
        # Of a damaged file the error tells enough.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL.TiffImagePlugin")
        # Not by its path: Pillow then maps an uncompressed TIFF into memory, in a wrong shape if it lies on its side.
        with path.open("rb") as file:
            try:
                picture = Image.open(file)
                num_pages = getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1
            except Exception as error:  # A damaged header can raise anything.
                raise ValueError(f"{path} is not an image, or damaged: {_first_line(error)}") from error
            yield picture, num_pages


def _wide_grey(picture: Image.Image) -> np.ndarray:
    """Read grey of more than 8 bits, which `to_rgb` would round to 8."""
    turned = upright(picture)
    values = np.array(turned)
    if picture.mode == "I":
        lowest, highest = values.min(), values.max()
        if lowest < 0 or highest > 65535:
            raise ValueError(f"grey values from {lowest} to {highest}; allowed: 0 to 65535")
        values = values.astype(np.uint16)
    if "transparency" in turned.info and values.dtype.kind == "u":
        values[values == turned.info["transparency"]] = 65535
    return values


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
