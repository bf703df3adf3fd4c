"""Reading an image of a data set with its full range, and a label image with exactly the numbers that it stores.

Pillow shows images; it scales grey of 2 and 4 bits to 8, halves colours of 16 bits, and forgets the sign of 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from sd_pipeline.images import WIDE_MODES, upright
from training.data.encoded_images import open_encoded, reading_fault
from training.data.errors import DataError

_ALLOWED = "allowed: integers in one channel, in a PNG or TIFF file"
_FORMATS = ("PNG", "TIFF")
_LOSSY_COMPRESSIONS = ("jpeg", "tiff_jpeg", "webp")
_INTEGER_MODES = ("1", "L", "P", *(mode for mode in WIDE_MODES if mode != "F"))
_GREY_OF = {"LA": 1, "RGB": 3, "RGBA": 3}
"""How many channels of a mode must be equal; what follows is opacity."""
# Pillow multiplies few bits so that the largest number is 255.
_SCALE_OF = {"L;2": 85, "L;4": 17}
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2


@dataclass(frozen=True)
class StoredImage:
    """Where an image lies.

    Args:
        encoded (`str` or `bytes`): The path or the bytes of its file; empty if there is none.
        name (`str`): What messages call it.
        page (`int`, *optional*): Which page of the file, from 0. Without it, the file may have one only.
    """

    encoded: str | bytes
    name: str
    page: int | None = None


def read_picture(file: StoredImage, max_image_pixels: int) -> Image.Image:
    """Decode an image, upright, in the mode that it has.

    Args:
        file (`StoredImage`): Where it lies.
        max_image_pixels (`int`): Images of more pixels are refused before they are decoded.

    Returns:
        `PIL.Image.Image`: the image, apart from its file. Grey of 16 bits stays so.

    Raises:
        DataError: If it is missing, damaged, too large or has several pages.
    """
    with _opened(file, max_image_pixels) as opened:
        picture = upright(opened).copy()
        # What tells the orientation would turn it again.
        picture.info = {key: value for key, value in picture.info.items() if key not in ("exif", "xmp")}
        return picture


def read_label_map(file: StoredImage, max_image_pixels: int) -> np.ndarray:
    """Decode a label image: its numbers, and of a palette the indices, not the colours.

    Args:
        file (`StoredImage`): Where it lies: a PNG or TIFF file, since others change numbers. Grey in three channels
            counts as one.
        max_image_pixels (`int`): Images of more pixels are refused before they are decoded.

    Returns:
        `np.ndarray` of shape `(height, width)`, int32, at least 0.

    Raises:
        DataError: If it is missing, damaged, too large or has several pages, or holds something else than one channel
            of integers of at least 0.
    """
    with _opened(file, max_image_pixels) as opened:
        _check_storage(opened)
        stored = _stored_as(opened)
        is_signed = isinstance(opened, TiffImagePlugin.TiffImageFile) and _SIGNED in _tag(opened, _SAMPLE_FORMAT)
        values = _one_channel(np.array(upright(opened)), opened.mode)
        if is_signed and values.dtype == np.uint8:
            values = values.view(np.int8)
        labels = values.astype(np.int32) // _SCALE_OF.get(stored[:3], 1)
        if labels.min() < 0:
            raise DataError(f"labels from {labels.min()} to {labels.max()}; allowed: 0 to {np.iinfo(np.int32).max}")
        return labels


@contextmanager
def _opened(file: StoredImage, max_image_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """Open an image; whatever is wrong with it, also later, becomes a `DataError` that names it."""
    try:
        if not file.encoded:
            raise DataError("it has no image")
        if file.page is None:
            with open_encoded(file.encoded, max_image_pixels) as opened:
                if opened.format == "PNG":  # Decoding does not look at its checksums, and cannot follow this.
                    opened.verify()
        with open_encoded(file.encoded, max_image_pixels, file.page or 0) as opened:
            counted = file.page is None and opened.format in _FORMATS
            num_pages = int(getattr(opened, "n_frames", 1)) if counted else 1
            if num_pages > 1:
                raise DataError(f"it has {num_pages} pages; allowed: one")
            yield opened
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over.
        raise DataError(f"{file.name}: {reading_fault(error)}") from error


def _check_storage(opened: ImageFile.ImageFile) -> None:
    """Refuse what is no integer, or what Pillow or the file has changed."""
    if opened.format not in _FORMATS:
        lossy = ", which changes numbers" if opened.format == "JPEG" else ""
        raise DataError(f"labels in a {opened.format} file{lossy}; {_ALLOWED}")
    if opened.mode == "F":
        raise DataError("labels are floating point; allowed: integers")
    if opened.mode not in (*_INTEGER_MODES, *_GREY_OF):
        raise DataError(f"a label image has one channel, not those of {opened.mode}; {_ALLOWED}")
    if opened.mode in _GREY_OF and "16" in _stored_as(opened):
        raise DataError(f"labels of 16 bits in several channels, which are read as 8 bits; {_ALLOWED}")
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        compression = opened.info.get("compression")
        if compression in _LOSSY_COMPRESSIONS:
            raise DataError(f"labels in a TIFF file with {compression} compression, which changes numbers; {_ALLOWED}")
        if _WHITE_IS_ZERO in _tag(opened, _PHOTOMETRIC):
            raise DataError("a TIFF file in which 0 is white, and readers differ in its numbers; allowed: 0 is black")


def _stored_as(opened: ImageFile.ImageFile) -> str:
    """Tell how an opened image that is not decoded stores its pixels, in Pillow's words."""
    arguments = opened.tile[0].args
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _tag(opened: TiffImagePlugin.TiffImageFile, number: int) -> tuple[int, ...]:
    value = opened.tag_v2.get(number, ())
    return value if isinstance(value, tuple) else (value,)


def _one_channel(values: np.ndarray, mode: str) -> np.ndarray:
    """Take the grey out of equal channels."""
    if mode not in _GREY_OF:
        return values
    grey, opacity = values[..., : _GREY_OF[mode]], values[..., _GREY_OF[mode] :]
    if (grey != grey[..., :1]).any():
        raise DataError(f"a label image has one channel, and this one has colours; {_ALLOWED}")
    if (opacity != 255).any():
        raise DataError(f"a label image has one channel, and this one is transparent in places; {_ALLOWED}")
    return np.ascontiguousarray(grey[..., 0])
