"""What stands in a picture of the truth task: its background; colour, shape, size and centre of its objects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from training.data.shape_scenes import BACKGROUNDS, COLORS, SIZES, SceneObject
from training.evaluation.truth_templates import best_fit

_BORDER = 2 / 64
_SMALL_RING = math.pi * (1 - 0.6**2) * SIZES["small"] ** 2
_LEAST_OBJECT = _SMALL_RING / 4
_LEAST_UNCLEAR = _LEAST_OBJECT / 10
# Distance in sRGB from which a pixel is not background. The nearest colour, white on pink, is 75 away; what JPEG at
# quality 90 rings around an object stays below 45 but for a few pixels in thousands of pictures, noise of deviation 4
# below 20. Of rendered scenes, as they are, after JPEG and after noise, as many pass with 40 as with 55.
_NOT_BACKGROUND = 50.0
# Share of an object's contrast below which a pixel may belong to the gap between two that touch.
_FIRM = 0.75
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, slots=True)
class Segments:
    """A picture taken apart.

    Args:
        background (`str`): The background whose colour is nearest to the median of the border.
        contrast (`numpy.ndarray` of shape `(side, side)`, float32): Distance of each pixel from that median, in sRGB.
        components (`tuple[numpy.ndarray, ...]`, each of shape `(side, side)`, bool): What is large enough to count.
        has_unclear (`bool`): Whether something is too small to count and too large to be ignored.
    """

    background: str
    contrast: np.ndarray
    components: tuple[np.ndarray, ...]
    has_unclear: bool


def segment(pixels: np.ndarray) -> Segments:
    """Tell what stands in a picture from its background.

    Args:
        pixels (`numpy.ndarray` of shape `(side, side, 3)`, float32): sRGB, in [0, 255].

    Returns:
        `Segments`: the background and the components before it.
    """
    background = _median_of_border(pixels)
    contrast = np.linalg.norm(pixels - background, axis=-1)
    # Beside a stronger contrast, at least half of it: that is where antialiasing has the edge of an object.
    near = 2 * _scaled(1, len(pixels)) + 1
    foreground = (contrast > _NOT_BACKGROUND) & (contrast > ndimage.maximum_filter(contrast, near) / 2)
    labels, areas = _label(foreground)
    large = np.flatnonzero(areas >= _LEAST_OBJECT)
    has_unclear = bool(((areas >= _LEAST_UNCLEAR) & (areas < _LEAST_OBJECT)).any())
    components = tuple(part for number in large for part in _take_apart(labels == number, contrast))
    return Segments(_nearest(background, BACKGROUNDS), contrast, components, has_unclear)


def _scaled(pixels: int, side: int) -> int:
    """Scale a length that is told for a side of 64, to at least one pixel."""
    return max(1, round(pixels * side / 64))


def _median_of_border(pixels: np.ndarray) -> np.ndarray:
    width = math.ceil(_BORDER * len(pixels))
    border = np.ones(pixels.shape[:2], dtype=bool)
    border[width:-width, width:-width] = False
    return np.median(pixels[border], axis=0)


def _nearest(color: np.ndarray, palette: Mapping[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(color - palette[name])))


def _label(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the components of a mask; element i of the areas, in fractions of the picture, is that of number i."""
    labels, count = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    areas = np.bincount(labels.ravel(), minlength=count + 1) / mask.size
    areas[0] = 0
    return labels, areas


def _take_apart(component: np.ndarray, contrast: np.ndarray) -> list[np.ndarray]:
    """Part objects that only touch, as two counted squares may with a corner: by what erosion leaves of them."""
    firm = component & (contrast > _FIRM * np.median(contrast[component]))
    labels, areas = _label(ndimage.binary_erosion(firm, border_value=1))
    cores = np.flatnonzero(areas >= _LEAST_OBJECT)
    if len(cores) < 2:
        return [component]
    labels *= np.isin(labels, cores)
    rows, columns = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    nearest_core = labels[rows, columns]
    return [component & (nearest_core == core) for core in cores]


def identify(pixels: np.ndarray, segments: Segments, component: np.ndarray) -> SceneObject:
    """Name the size, colour and shape of an object and find its centre.

    Args:
        pixels (`numpy.ndarray` of shape `(side, side, 3)`, float32): sRGB, in [0, 255].
        segments (`Segments`): The picture, taken apart.
        component (`numpy.ndarray` of shape `(side, side)`, bool): One of its components.

    Returns:
        `SceneObject`: of the names and the place that fit best.
    """
    inside = ndimage.binary_erosion(component, border_value=1)
    if not inside.any():
        inside = component
    color = _nearest(np.median(pixels[inside], axis=0), COLORS)
    # An edge pixel's contrast is in proportion to what the object covers of it. The object's own edge ends a pixel
    # beyond its component; farther away is another object's.
    coverage = (segments.contrast / np.median(segments.contrast[inside])).clip(0, 1)
    coverage *= ndimage.binary_dilation(component, _EIGHT_NEIGHBOURS)
    size, shape, center = best_fit(coverage)
    return SceneObject(size, color, shape, center)
