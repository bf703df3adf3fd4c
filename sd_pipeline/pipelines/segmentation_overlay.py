"""A segmentation laid over its image, for people to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt

from sd_pipeline.label_maps import outlines
from sd_pipeline.pipelines.call_arguments import require
from sd_pipeline.pipelines.segmentation_inputs import read_images

COLORS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)],
    dtype=np.float32,
)
"""Red, green and blue, which colour-blind people too tell apart (Okabe and Ito 2008, without black)."""


def overlay(image: Any, instances: np.ndarray) -> Image.Image:
    """Colour every instance, or every class, half-transparently, with its outline.

    Number n has colour n - 1, beginning anew after the last, unless a neighbour with a smaller number has it: then the
    next that none of these has, as long as there is one. Neighbours are those that meet if all grow at one speed.

    Args:
        image (`PIL.Image.Image`, `np.ndarray`, `str` or `os.PathLike`): What was segmented; see
            `segmentation_inputs.read_images`.
        instances (`np.ndarray` of shape `(height, width)`): The `instances` or `labels` of a segmentation, integers
            of at least 0. What is 0 is not coloured.

    Returns:
        `PIL.Image.Image`: RGB.

    Raises:
        ValueError: If the image cannot be read, or the instances are something else or of another size.
    """
    levels = _levels(image)
    is_map = isinstance(instances, np.ndarray) and instances.dtype.kind in "iu" and instances.shape == levels.shape[:2]
    kind = getattr(instances, "dtype", type(instances).__name__)
    shown = f"{kind} of shape {getattr(instances, 'shape', None)}"
    require(is_map, "instances", shown, f"an array of integers of shape {levels.shape[:2]}, that of the image")
    require(instances.min() >= 0, "instances", "negative somewhere", "at least 0")
    numbers = np.unique(instances)
    if numbers[0] != 0:  # Place 0 is that of the background, whether there is any or not.
        numbers = np.concatenate([np.zeros(1, numbers.dtype), numbers])
    places = _places(numbers, instances)
    colors = np.concatenate([np.zeros((1, 3), np.float32), COLORS[_color_numbers(numbers, places)]])
    opacity = np.where(outlines(instances), np.float32(1), np.float32(0.5)) * (instances > 0)
    for row, place, weight in zip(levels, places, opacity, strict=True):  # In place: images may be large.
        row += (colors[place] - row) * weight[:, None]
    return _picture(levels)


def plain(image: Any) -> Image.Image:
    """Show an image as `overlay` does, without anything over it.

    Args:
        image (`PIL.Image.Image`, `np.ndarray`, `str` or `os.PathLike`): As of `overlay`.

    Returns:
        `PIL.Image.Image`: RGB.

    Raises:
        ValueError: If it cannot be read.
    """
    return _picture(_levels(image))


def _levels(image: Any) -> np.ndarray:
    """Read red, green and blue from 0 to 255, float32, channels last."""
    require(not isinstance(image, (list, tuple)), "image", "a list", "one image")
    levels: np.ndarray = read_images(image, in_channels=3)[0].mul_(255).permute(1, 2, 0).numpy()
    return levels


def _picture(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(levels, out=levels).astype(np.uint8, order="C"))


def _places(numbers: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Tell for each pixel where its number stands in the list of them, int32: `np.unique` takes eight times that."""
    places = np.empty(instances.shape, np.int32)
    for target, row in zip(places, instances, strict=True):
        target[:] = np.searchsorted(numbers, row)
    return places


def _color_numbers(numbers: np.ndarray, places: np.ndarray) -> list[int]:
    """Choose colours for all numbers but the first, which is the background, at their places in the image."""
    if len(numbers) == 1:
        return []
    nearest = distance_transform_edt(places == 0, return_distances=False, return_indices=True)
    grown = places[tuple(nearest)]
    sides = [(grown[1:], grown[:-1]), (grown[:, 1:], grown[:, :-1])]
    # One number for each pair: a sort of pairs takes many times as long.
    pairs = [(np.minimum(a, b) * np.int64(len(numbers)) + np.maximum(a, b))[a != b] for a, b in sides]
    smaller_neighbours: list[set[int]] = [set() for _ in numbers]
    for pair in np.unique(np.concatenate(pairs)).tolist():
        smaller, larger = divmod(pair, len(numbers))
        smaller_neighbours[larger].add(smaller)
    colors = [-1]
    for place, number in enumerate(numbers[1:].tolist(), start=1):
        taken = {colors[neighbour] for neighbour in smaller_neighbours[place]}
        choices = [(number - 1 + shift) % len(COLORS) for shift in range(len(COLORS))]
        colors.append(next((color for color in choices if color not in taken), choices[0]))
    return colors[1:]
