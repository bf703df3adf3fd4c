"""Pictures of the scenes of the truth task, and the source that training and evaluation read them from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from training.data.errors import DataError
from training.data.shape_scenes import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT_PAIRS,
    SIZES,
    SPLITS,
    Scene,
    caption_of,
    held_out_pairs_of,
    sample_scene,
    split_of,
)

SUPERSAMPLING = 4
# To be raised when scenes are drawn from the series, or rendered, in another way: latents of older ones are refused.
DRAWING_VERSION = 1
_STAR_ANGLES = np.pi * np.arange(10) / 5
_STAR_RADII = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
_STAR = np.stack([_STAR_RADII * np.sin(_STAR_ANGLES), -_STAR_RADII * np.cos(_STAR_ANGLES)], axis=1)
_TRIANGLE = np.array([(0.0, -1.0), (-1.0, 0.85), (1.0, 0.85)])


def render(scene: Scene, size: int = 64) -> Image.Image:
    """Draw a scene at four times its size and reduce it with a box filter.

    Args:
        scene (`Scene`): The scene.
        size (`int`, defaults to 64): Side of the picture, in pixels; everything scales with it.

    Returns:
        `PIL.Image.Image`: `size` x `size`, RGB.
    """
    side = size * SUPERSAMPLING
    canvas = np.empty((side, side, 3), dtype=np.uint8)
    canvas[:] = BACKGROUNDS[scene.background]
    for item in scene.objects:
        radius = SIZES[item.size] * side
        columns, x = _offsets(item.center[0] * side, radius, side)
        rows, y = _offsets(item.center[1] * side, radius, side)
        inside = INSIDE[item.shape](x[None, :], y[:, None])
        canvas[rows, columns][inside] = COLORS[item.color]
    return Image.fromarray(canvas).reduce(SUPERSAMPLING)


def _offsets(center: float, radius: float, side: int) -> tuple[slice, np.ndarray]:
    """Find the pixels along one axis that a shape can touch, and their distances from its centre, in radii."""
    start, stop = max(0, int(center - radius)), min(side, int(center + radius) + 1)
    return slice(start, stop), (np.arange(start, stop) + 0.5 - center) / radius


def _in_circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x**2 + y**2 <= 1


def _in_square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.abs(x) <= 0.88) & (np.abs(y) <= 0.88)


def _in_ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    distance = x**2 + y**2
    return (distance <= 1) & (distance >= 0.6**2)


def _in_cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    across, down = np.abs(x), np.abs(y)
    return ((across <= 1) & (down <= 0.35)) | ((across <= 0.35) & (down <= 1))


def _in_polygon(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Count the edges to the right of each point: inside if their number is odd."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (x_0, y_0), (x_1, y_1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y_0 != y_1:
            inside ^= ((y < y_0) != (y < y_1)) & (x < x_0 + (y - y_0) * (x_1 - x_0) / (y_1 - y_0))
    return inside


def _in_triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _in_polygon(x, y, _TRIANGLE)


def _in_star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _in_polygon(x, y, _STAR)


INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _in_circle,
    "square": _in_square,
    "triangle": _in_triangle,
    "star": _in_star,
    "ring": _in_ring,
    "cross": _in_cross,
}
"""Whether points (x, y), in radii from the centre of a shape, y downwards, lie inside of it."""


def _read_pairs(split: str, pairs: Sequence[Sequence[str]]) -> frozenset[tuple[str, ...]]:
    read = frozenset(tuple(pair) for pair in pairs)
    unknown = sorted(read - HELD_OUT_PAIRS)
    if unknown or (read and split != "pair"):
        allowed = ", ".join(f"[{shape}, {color}]" for shape, color in sorted(HELD_OUT_PAIRS))
        found = list(unknown[0]) if unknown else f"for the split {split!r}"
        raise DataError(f"shapes: pairs are {found}; allowed for the split 'pair': some of {allowed}")
    return read or HELD_OUT_PAIRS


class ShapesSource:
    """Scenes of one split, as many as asked for, drawn when they are read.

    Args:
        split (`str`, defaults to `"seen"`): `"seen"`, the only one for training; `"caption"` or `"pair"`.
        num_samples (`int`, defaults to 50,000): How many scenes: the first of the series that belong to the split.
        size (`int`, defaults to 64): Side of the pictures, in pixels.
        seed (`int`, defaults to 0): Names the series of scenes.
        pairs (sequence of pairs of `str`, *optional*): Held-out pairs of shape and colour; given, only scenes of the
            split `"pair"` that hold one of these and no other.

    Attributes:
        scene_numbers (`numpy.ndarray` of shape `(num_samples,)`, int64): Numbers of the scenes in the series.
        captions (`list[str]`): Their captions.

    Raises:
        DataError: If there is no such split or pair, or `num_samples` or `size` is not positive.

    Example:
        ```python
        >>> from training.data.shapes import ShapesSource
        >>> shapes = ShapesSource(num_samples=2, size=64)
        >>> shapes.image(0).size, shapes.captions[0].endswith("background")
        ((64, 64), True)

        ```
    """

    def __init__(
        self,
        split: str = "seen",
        num_samples: int = 50_000,
        size: int = 64,
        seed: int = 0,
        pairs: Sequence[Sequence[str]] = (),
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"shapes has no split {split!r}; allowed: {', '.join(SPLITS)}")
        if num_samples < 1 or size < 1:
            raise DataError(f"shapes: {num_samples} pictures of {size} pixels; allowed: at least 1 of at least 1")
        wanted = _read_pairs(split, pairs)
        self.split = split
        self.pairs = sorted(wanted)
        self.size = size
        self.seed = seed
        self.captions: list[str] = []
        self.scene_numbers = np.empty(num_samples, dtype=np.int64)
        for number in itertools.count():
            scene = sample_scene(seed, number)
            if split_of(scene) == split and held_out_pairs_of(scene) <= wanted:
                self.scene_numbers[len(self.captions)] = number
                self.captions.append(caption_of(scene))
                if len(self.captions) == num_samples:
                    break

    def __len__(self) -> int:
        return len(self.scene_numbers)

    def scene(self, index: int) -> Scene:
        """Draw a scene again, from its number."""
        return sample_scene(self.seed, int(self.scene_numbers[index]))

    def image(self, index: int) -> Image.Image:
        """Draw the picture of a scene."""
        return render(self.scene(index), self.size)

    def image_size(self, index: int) -> tuple[int, int]:
        """Give width and height of a picture."""
        return self.size, self.size

    def name(self, index: int) -> str:
        """Name a scene by its seed and number."""
        return f"shapes, scene {self.scene_numbers[index]} of seed {self.seed}"

    def fingerprint(self) -> str:
        """Give the arguments and the version of the drawing."""
        scenes = f"{len(self)} scenes of seed {self.seed}, split {self.split}"
        pairs = " ".join(f"{color}-{shape}" for shape, color in self.pairs) if self.split == "pair" else "any"
        return f"shapes, {scenes}, pairs {pairs}, size {self.size}, drawing {DRAWING_VERSION}"
