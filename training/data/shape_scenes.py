"""The scenes of the truth task: what stands where, how its caption reads and which split it belongs to.

Every caption can be checked in the picture by a program. Lengths are fractions of the side of the canvas, y points
downwards.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from training.engine.random_streams import sample_rng

Choice = TypeVar("Choice")

BACKGROUNDS = {"grey": (128, 128, 128), "pink": (250, 190, 205), "sky": (170, 215, 250), "navy": (25, 35, 90)}
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 50),
    "purple": (150, 60, 180),
    "orange": (245, 140, 30),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = {"small": 7 / 64, "large": 12 / 64}
KINDS = {"attribute": 0.35, "relation": 0.40, "count": 0.25}
COUNT_WORDS = {2: "two", 3: "three", 4: "four"}
# The axis of each relation (0 is x), and whether its first object has the smaller coordinate.
RELATIONS = {"left of": (0, True), "right of": (0, False), "above": (1, True), "below": (1, False)}
SPLITS = ("seen", "caption", "pair")
HELD_OUT_PAIRS = frozenset(
    {
        ("star", "red"),
        ("cross", "blue"),
        ("ring", "green"),
        ("triangle", "yellow"),
        ("circle", "purple"),
        ("square", "orange"),
    }
)

_ATTRIBUTE_RANGE = (16 / 64, 48 / 64)
_RELATION_NEAR, _RELATION_FAR, _RELATION_ACROSS = 17 / 64, 47 / 64, 32 / 64
_MOVED_TOGETHER, _MOVED_ALONE = 4 / 64, 2 / 64
_COUNT_RANGE = (9 / 64, 55 / 64)
_COUNT_DISTANCE = 17 / 64


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One shape: its size, colour and kind by name, and its centre (x, y) in fractions of the canvas."""

    size: str
    color: str
    shape: str
    center: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene. In a relation, the first object stands `relation` ("left of", ...) the second."""

    kind: str
    background: str
    objects: tuple[SceneObject, ...]
    relation: str | None = None


def sample_scene(seed: int, index: int) -> Scene:
    """Draw a scene: 35% attribute, 40% relation, 25% count, everything in them uniform.

    Args:
        seed (`int`): Names an endless series of scenes.
        index (`int`): Number of the scene in its series, from 0.

    Returns:
        `Scene`: a pure function of (seed, index).
    """
    draws = _uniform_draws(sample_rng(seed, "shapes", index))
    kind = next(draws)
    background = _choose(draws, tuple(BACKGROUNDS))
    if kind < KINDS["attribute"]:
        center = (_between(draws, *_ATTRIBUTE_RANGE), _between(draws, *_ATTRIBUTE_RANGE))
        return Scene("attribute", background, (_draw_object(draws, center),))
    if kind < KINDS["attribute"] + KINDS["relation"]:
        return _draw_relation(draws, background)
    return _draw_count(draws, background)


def caption_of(scene: Scene) -> str:
    """Write the one caption of a scene."""
    first = scene.objects[0]
    if scene.kind == "count":
        plural = first.shape + ("es" if first.shape.endswith("s") else "s")
        told = f"{COUNT_WORDS[len(scene.objects)]} {first.size} {first.color} {plural}"
    else:
        told = f" {scene.relation} ".join(f"a {item.size} {item.color} {item.shape}" for item in scene.objects)
    return f"{told} on a {scene.background} background"


def held_out_pairs_of(scene: Scene) -> frozenset[tuple[str, str]]:
    """List the pairs of shape and colour in a scene that never occur in training."""
    return HELD_OUT_PAIRS & {(item.shape, item.color) for item in scene.objects}


def split_of(scene: Scene) -> str:
    """Tell which split a scene belongs to, by what it holds and by the SHA-256 of its caption.

    Args:
        scene (`Scene`): The scene.

    Returns:
        `str`: `"pair"` if a held-out pair of shape and colour is in it; of the rest, `"caption"` for the tenth of the
        captions whose hash (first 4 bytes, big endian) is 0 modulo 10; otherwise `"seen"`, the split for training.
    """
    if held_out_pairs_of(scene):
        return "pair"
    digest = hashlib.sha256(caption_of(scene).encode()).digest()
    return "caption" if int.from_bytes(digest[:4], "big") % 10 == 0 else "seen"


def _uniform_draws(rng: np.random.Generator) -> Iterator[float]:
    """Draw numbers in [0, 1) without end, some at a time because a call to the generator costs more than a number."""
    while True:
        yield from rng.random(32).tolist()


def _choose(draws: Iterator[float], choices: Sequence[Choice]) -> Choice:
    return choices[int(next(draws) * len(choices))]


def _between(draws: Iterator[float], low: float, high: float) -> float:
    return low + (high - low) * next(draws)


def _draw_object(draws: Iterator[float], center: tuple[float, float]) -> SceneObject:
    return SceneObject(_choose(draws, tuple(SIZES)), _choose(draws, tuple(COLORS)), _choose(draws, SHAPES), center)


def _draw_relation(draws: Iterator[float], background: str) -> Scene:
    relation = _choose(draws, tuple(RELATIONS))
    axis, first_is_near = RELATIONS[relation]
    together = [_between(draws, -_MOVED_TOGETHER, _MOVED_TOGETHER) for _ in range(2)]
    objects = []
    for along in (_RELATION_NEAR, _RELATION_FAR) if first_is_near else (_RELATION_FAR, _RELATION_NEAR):
        start = (along, _RELATION_ACROSS) if axis == 0 else (_RELATION_ACROSS, along)
        x, y = (start[i] + together[i] + _between(draws, -_MOVED_ALONE, _MOVED_ALONE) for i in range(2))
        objects.append(_draw_object(draws, (x, y)))
    return Scene("relation", background, tuple(objects), relation)


def _draw_count(draws: Iterator[float], background: str) -> Scene:
    count = _choose(draws, tuple(COUNT_WORDS))
    color, shape = _choose(draws, tuple(COLORS)), _choose(draws, SHAPES)
    centers: list[tuple[float, float]] = []
    while not centers or any(math.dist(a, b) < _COUNT_DISTANCE for a, b in itertools.combinations(centers, 2)):
        centers = [(_between(draws, *_COUNT_RANGE), _between(draws, *_COUNT_RANGE)) for _ in range(count)]
    return Scene("count", background, tuple(SceneObject("small", color, shape, center) for center in centers))
