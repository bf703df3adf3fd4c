"""What a caption of the truth task says: the inverse of `caption_of`."""

from __future__ import annotations

import math
import re

from training.data.shape_scenes import BACKGROUNDS, COLORS, COUNT_WORDS, RELATIONS, SHAPES, SIZES, Scene, SceneObject

UNKNOWN_PLACE = (math.nan, math.nan)
"""The centre of an object that is told and not drawn."""


def _one_of(*words: str) -> str:
    return f"({'|'.join(words)})"


_COUNTS = {word: count for count, word in COUNT_WORDS.items()}
_SINGULARS = {shape + ("es" if shape.endswith("s") else "s"): shape for shape in SHAPES}
_OBJECT = f"a {_one_of(*SIZES)} {_one_of(*COLORS)} {_one_of(*SHAPES)}"
_BACKGROUND = f" on a {_one_of(*BACKGROUNDS)} background"
_ATTRIBUTE = re.compile(_OBJECT + _BACKGROUND)
_RELATION = re.compile(f"{_OBJECT} {_one_of(*RELATIONS)} {_OBJECT}{_BACKGROUND}")
_COUNT = re.compile(f"{_one_of(*_COUNTS)} (small) {_one_of(*COLORS)} {_one_of(*_SINGULARS)}{_BACKGROUND}")


def parse_caption(caption: str) -> Scene:
    """Read a caption of the truth task.

    Args:
        caption (`str`): Of one of the three kinds, as `caption_of` writes them.

    Returns:
        `Scene`: with every centre `UNKNOWN_PLACE`; `caption_of` gives the caption back, `split_of` tells its split.

    Raises:
        ValueError: If the grammar does not know the caption.
    """
    if match := _ATTRIBUTE.fullmatch(caption):
        *told, background = match.groups()
        return Scene("attribute", background, (_object(*told),))
    if match := _RELATION.fullmatch(caption):
        *told, background = match.groups()
        return Scene("relation", background, (_object(*told[:3]), _object(*told[4:])), told[3])
    if match := _COUNT.fullmatch(caption):
        count, size, color, plural, background = match.groups()
        return Scene("count", background, (_object(size, color, _SINGULARS[plural]),) * _COUNTS[count])
    raise ValueError(
        f"no caption of the truth task: {caption!r}; allowed, for example: 'a large red star on a grey background', "
        "'a large red star above a small blue ring on a sky background', 'two small red stars on a navy background'"
    )


def _object(size: str, color: str, shape: str) -> SceneObject:
    return SceneObject(size, color, shape, UNKNOWN_PLACE)
