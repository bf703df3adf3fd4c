"""What images cost without a model of ours: the sizes of lossless files, and of a code of each pixel by itself."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from sd_pipeline.schedulers.variational_bound import NUM_LEVELS

# What each level of each pixel counts before the first image: Krichevsky and Trofimov's half.
_COUNTED_BEFORE = 0.5


def png_bits(picture: Image.Image) -> int:
    """Size of a PNG file, compressed as well as Pillow can; grey where all three channels are equal.

    Args:
        picture (`PIL.Image.Image`): RGB.

    Returns:
        `int`: bits, those of the file's headers included.
    """
    return _size(_grey_if_equal(picture), "PNG", optimize=True)


def webp_bits(picture: Image.Image) -> int:
    """Size of a lossless WebP file, compressed as well as Pillow can.

    Args:
        picture (`PIL.Image.Image`): RGB.

    Returns:
        `int`: bits, those of the file's headers included.
    """
    return _size(picture, "WEBP", lossless=True, quality=100, method=6, exact=True)


def _grey_if_equal(picture: Image.Image) -> Image.Image:
    grey = picture.getchannel(0)
    is_grey = all(picture.getchannel(channel).tobytes() == grey.tobytes() for channel in (1, 2))
    return grey if is_grey else picture


def _size(picture: Image.Image, file_format: str, **options: object) -> int:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return 8 * len(file.getvalue())


class PixelHistograms:
    """A distribution over the 256 levels for each place and channel, counted over training images.

    Args:
        pictures (iterable of `np.ndarray` of shape `(height, width, channels)`, uint8): Training images, of one shape.
    """

    def __init__(self, pictures: Iterable[np.ndarray]) -> None:
        counts: np.ndarray | None = None
        for levels in pictures:
            if counts is None:
                counts = np.full((levels.size, NUM_LEVELS), _COUNTED_BEFORE)
            counts[np.arange(levels.size), levels.ravel()] += 1
        if counts is None:
            raise ValueError("there is no training image to count; allowed: at least one")
        self._bits = -np.log2(counts / counts.sum(1, keepdims=True))

    def bits(self, levels: np.ndarray) -> float:
        """Give -log2 of the probability of an image whose pixels are independent.

        Args:
            levels (`np.ndarray` of shape `(height, width, channels)`, uint8): The image.

        Returns:
            `float`: bits.
        """
        return float(self._bits[np.arange(levels.size), levels.ravel()].sum())
