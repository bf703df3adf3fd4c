"""The twelve shapes of the truth task as the generator draws them: which of them fits an object best, and where."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from training.data.shape_scenes import BACKGROUNDS, COLORS, SHAPES, SIZES, Scene, SceneObject
from training.data.shapes import render

_KINDS = tuple(itertools.product(SIZES, SHAPES))
# Places are tried at most 1/256 of the side apart, within 1/64 of it around the centroid, and never closer than a
# pixel of the renderer. A triangle reaches farthest from its centroid, 1.24 radii.
_STEPS, _REACH, _EXTENT = 256, 64, 1.24


@dataclass(frozen=True, slots=True)
class Templates:
    """The shapes at one size of picture, each drawn at several places within a pixel.

    Args:
        kinds (`numpy.ndarray` of shape `(templates,)`, int64): Which size and shape it is.
        coverages (`numpy.ndarray` of shape `(templates, width * width)`, float32):
            How much of each pixel is covered, 0 to 1. The pixel in the middle holds the centroid.
        centers (`numpy.ndarray` of shape `(templates, 2)`, float64):
            Centre (x, y) of the shape, in pixels from the upper left corner of the pixel in the middle.
        radius (`int`): Pixels beside the one in the middle: `width` is `2 * radius + 1`.
    """

    kinds: np.ndarray
    coverages: np.ndarray
    centers: np.ndarray
    radius: int


@lru_cache(maxsize=4)
def templates_of(side: int) -> Templates:
    """Draw the templates for pictures of one side, in pixels."""
    phases = math.ceil(_STEPS / side)
    radius = math.ceil(_EXTENT * SIZES["large"] * side) + 1
    kinds, coverages, centers = [], [], []
    for kind, row, column in itertools.product(range(len(_KINDS)), range(phases), range(phases)):
        x, y = side // 2 + column / phases, side // 2 + row / phases
        coverage = _draw(*_KINDS[kind], (x / side, y / side), side)
        middle_x, middle_y = (int(along) for along in centroid(coverage))
        kinds.append(kind)
        centers.append((x - middle_x, y - middle_y))
        inside = np.pad(coverage, radius)[middle_y : middle_y + 2 * radius + 1, middle_x : middle_x + 2 * radius + 1]
        coverages.append(inside.ravel())
    return Templates(np.array(kinds), np.stack(coverages), np.array(centers), radius)


def _draw(size: str, shape: str, center: tuple[float, float], side: int) -> np.ndarray:
    scene = Scene("attribute", "navy", (SceneObject(size, "white", shape, center),))
    red = np.asarray(render(scene, side), dtype=np.float32)[..., 0]
    return (red - BACKGROUNDS["navy"][0]) / (COLORS["white"][0] - BACKGROUNDS["navy"][0])


def centroid(coverage: np.ndarray) -> tuple[float, float]:
    """Find the centroid (x, y) of what is covered, in pixels from the upper left corner of the picture."""
    along = np.arange(len(coverage)) + 0.5
    total = coverage.sum()
    return float(coverage.sum(axis=0) @ along / total), float(coverage.sum(axis=1) @ along / total)


def best_fit(coverage: np.ndarray) -> tuple[str, str, tuple[float, float]]:
    """Find the size, shape and place whose overlap with an object is best.

    For coverages a of the object and t of the template, overlap = sum(a t) / (sum(a^2) + sum(t^2) - sum(a t)) over
    the pixels of the picture: intersection over union where both are 0 or 1, and 1 only where they are equal.

    Args:
        coverage (`numpy.ndarray` of shape `(side, side)`, float32): How much of each pixel the object covers, 0 to 1.

    Returns:
        `tuple[str, str, tuple[float, float]]`: size, shape and centre (x, y), in fractions of the side.
    """
    side = len(coverage)
    templates = templates_of(side)
    stride = max(1, side // _STEPS)
    steps = max(1, side // _REACH // stride)
    reach = steps * stride
    middle_x, middle_y = (int(along) for along in centroid(coverage))

    def windows(plane: np.ndarray) -> np.ndarray:
        # Zeros around the picture: there a shape is cut off, as the renderer cuts it off.
        padded = np.pad(plane, templates.radius + reach)
        length = 2 * (templates.radius + reach) + 1
        around = padded[middle_y : middle_y + length, middle_x : middle_x + length]
        width = 2 * templates.radius + 1
        return sliding_window_view(around, (width, width))[::stride, ::stride].reshape(-1, width * width)

    common = templates.coverages @ windows(coverage).T
    visible = np.square(templates.coverages) @ windows(np.ones_like(coverage)).T
    overlap = common / (np.square(coverage).sum() + visible - common)
    template, place = np.unravel_index(overlap.argmax(), overlap.shape)
    row, column = divmod(int(place), 2 * steps + 1)
    x = middle_x - reach + column * stride + templates.centers[template, 0]
    y = middle_y - reach + row * stride + templates.centers[template, 1]
    return *_KINDS[templates.kinds[template]], (float(x / side), float(y / side))
