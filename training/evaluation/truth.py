"""The checker of the truth task: whether a picture shows what its caption says, and if not, what is wrong."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sd_pipeline.images import to_rgb
from training.data.shape_scenes import RELATIONS, Scene, SceneObject
from training.evaluation.truth_grammar import parse_caption
from training.evaluation.truth_objects import identify, segment

PARTS = ("background", "count", "colour", "shape", "size", "relation")
_SMALLEST_SIDE = 32
_RELATION_DISTANCE = 8 / 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker says about a picture.

    Args:
        failed (`tuple[str, ...]`):
            The parts of the caption that do not hold, of `PARTS` and in their order. The objects are taken for those
            of the caption with as few mistakes as can be. If there are more or fewer, or one of them is too small to
            count and too large to be ignored, "count" has failed, and of the objects nothing more is judged.
    """

    failed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the picture shows what the caption says."""
        return not self.failed


def check(image: Image.Image, caption: str) -> Verdict:
    """Check a picture against a caption of the truth task.

    Args:
        image (`PIL.Image.Image`): A square picture of at least 32x32 pixels, in any mode.
        caption (`str`): The caption.

    Returns:
        `Verdict`: whether it passes, and which parts fail.

    Raises:
        ValueError: If the grammar does not know the caption, or the picture is not square or too small.
    """
    told = parse_caption(caption)
    width, height = image.size
    if width != height or width < _SMALLEST_SIDE:
        raise ValueError(f"a picture of {width}x{height}; allowed: square ones from {_SMALLEST_SIDE}x{_SMALLEST_SIDE}")
    pixels = np.asarray(to_rgb(image), dtype=np.float32)
    segments = segment(pixels)
    failed = [] if segments.background == told.background else ["background"]
    if segments.has_unclear or len(segments.components) != len(told.objects):
        failed.append("count")
    else:
        seen = [identify(pixels, segments, component) for component in segments.components]
        fewest = min((_mistakes(told, order) for order in itertools.permutations(seen)), key=len)
        failed += fewest
    return Verdict(tuple(part for part in PARTS if part in failed))


def _mistakes(told: Scene, seen: Sequence[SceneObject]) -> list[str]:
    """List what is wrong if the objects are those of the caption in this order: a part for every mistake."""
    mistakes = []
    for said, found in zip(told.objects, seen, strict=True):
        pairs = {
            "colour": (said.color, found.color),
            "shape": (said.shape, found.shape),
            "size": (said.size, found.size),
        }
        mistakes += [part for part, (name, found_name) in pairs.items() if name != found_name]
    if told.relation is not None and not _holds(told.relation, seen):
        mistakes.append("relation")
    return mistakes


def _holds(relation: str, seen: Sequence[SceneObject]) -> bool:
    axis, first_is_near = RELATIONS[relation]
    first, second = (item.center[axis] for item in seen)
    return (second - first if first_is_near else first - second) >= _RELATION_DISTANCE
