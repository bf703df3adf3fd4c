"""Random masks to train inpainting on: rectangles, brush strokes, borders for outpainting, seldom everything."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

KINDS = {"rectangles": 0.35, "strokes": 0.35, "border": 0.25, "everything": 0.05}
"""Share of each kind. Masks of everything teach the U-Net to draw without a picture to go by."""

LEAST_AREA = 0.02
"""Share of the picture that a hole has at least."""

_MOST_RECTANGLES, _MOST_STROKES, _MOST_CORNERS = 3, 4, 5
_RECTANGLE_SIDE = (0.15, 0.75)
_STROKE_WIDTH = (0.05, 0.2)
_KEPT_SIDE = (0.3, 0.9)


def sample_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a mask of a kind that is drawn from `KINDS`.

    Args:
        rng (`numpy.random.Generator`): Source of all chance: the mask is a function of its state.
        height (`int`): In pixels, at least 1.
        width (`int`): In pixels, at least 1.

    Returns:
        `numpy.ndarray` of shape `(height, width)`, bool: true in the hole. At least `LEAST_AREA` of it is; but for the
        kind `everything`, something is kept.
    """
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    if kind == "everything" or height * width == 1:
        return np.ones((height, width), dtype=bool)
    draw = {"rectangles": _rectangles, "strokes": _strokes, "border": _border}[kind]
    while True:
        mask = draw(rng, height, width)
        if mask.mean() >= LEAST_AREA and not mask.all():
            return mask


def _rectangles(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(rng.integers(1, _MOST_RECTANGLES + 1)):
        (top, bottom), (left, right) = (_interval(rng, side, *_RECTANGLE_SIDE) for side in (height, width))
        mask[top:bottom, left:right] = True
    return mask


def _strokes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw polylines with round joints and ends."""
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, _MOST_STROKES + 1)):
        thickness = max(1, round(rng.uniform(*_STROKE_WIDTH) * min(height, width)))
        corners = rng.uniform((0, 0), (width, height), size=(rng.integers(2, _MOST_CORNERS + 1), 2))
        draw.line([tuple(corner) for corner in corners], fill=1, width=thickness)
        for x, y in corners:
            draw.ellipse([x - thickness / 2, y - thickness / 2, x + thickness / 2, y + thickness / 2], fill=1)
    return np.array(canvas, dtype=bool)


def _border(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Keep a rectangle, which each border of the picture is moved to with probability one half."""
    mask = np.ones((height, width), dtype=bool)
    (top, bottom), (left, right) = (_interval(rng, side, *_KEPT_SIDE) for side in (height, width))
    touches = rng.random(4) < 0.5
    top, bottom = (0 if touches[0] else top), (height if touches[1] else bottom)
    left, right = (0 if touches[2] else left), (width if touches[3] else right)
    mask[top:bottom, left:right] = False
    return mask


def _interval(rng: np.random.Generator, side: int, shortest: float, longest: float) -> tuple[int, int]:
    length = min(max(1, round(rng.uniform(shortest, longest) * side)), side)
    start = int(rng.integers(side - length + 1))
    return start, start + length
