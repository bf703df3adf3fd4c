"""Aspect-ratio buckets: the few sizes that pictures of all shapes are brought to, none far from its own shape.

Squares cut off a third of a usual photograph. The scheme of NovelAI (2022), which Stable Diffusion XL was trained with
(Podell et al. 2023, section 2.3), has pictures of many shapes with about as many pixels each, and crops a picture only
to the nearest of these shapes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from training.data.image_source import ImageSource

MAX_ASPECT_RATIO = 2
"""The longer side of a bucket is at most this many times the shorter one; longer pictures are cropped to it."""

Size = tuple[int, int]
"""Width and height, in pixels."""


def aspect_ratio_buckets(resolution: int, step: int) -> list[Size]:
    """List the sizes that pictures are brought to.

    For each side that is a multiple of `step`, the other one is the largest multiple with which the area is at most
    `resolution`^2. So landscapes mirror portraits, and the square is among them.

    Args:
        resolution (`int`): Side of the square, in pixels; a multiple of `step`.
        step (`int`): Sides are multiples of it.

    Returns:
        `list[tuple[int, int]]`: width and height of each, from the tallest to the widest.

    Example:
        ```python
        >>> from training.data.aspect_ratio_buckets import aspect_ratio_buckets
        >>> aspect_ratio_buckets(64, 16)
        [(48, 80), (64, 64), (80, 48)]

        ```
    """
    longest = MAX_ASPECT_RATIO * resolution
    pairs = [(side, resolution**2 // side // step * step) for side in range(step, longest + 1, step)]
    wide = {(max(pair), min(pair)) for pair in pairs if max(pair) <= MAX_ASPECT_RATIO * min(pair)}
    return sorted(wide | {(height, width) for width, height in wide}, key=lambda size: size[0] / size[1])


def nearest_buckets(sizes: Sequence[Size], buckets: Sequence[Size]) -> np.ndarray:
    """Find the bucket of each picture: the one of the nearest aspect ratio, compared by its logarithm.

    That is the bucket to which least of the picture is cropped away.

    Args:
        sizes (sequence of `tuple[int, int]`): Width and height of the pictures.
        buckets (sequence of `tuple[int, int]`): Those of the buckets, from the tallest to the widest.

    Returns:
        `numpy.ndarray` of shape `(len(sizes),)`, int64: numbers of buckets.
    """
    of_pictures, of_buckets = (np.log(np.array(each, dtype=np.float64).reshape(-1, 2)) for each in (sizes, buckets))
    ratios = of_buckets[:, 0] - of_buckets[:, 1]
    return np.searchsorted((ratios[1:] + ratios[:-1]) / 2, of_pictures[:, 0] - of_pictures[:, 1])


def sizes_of(source: ImageSource) -> list[Size]:
    """Read the sizes of all pictures of a source, in threads, from the headers of their files.

    Args:
        source (`ImageSource`): The pictures.

    Raises:
        DataError: If a header cannot be read.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(source.image_size, range(len(source))))
