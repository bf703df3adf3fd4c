"""Captions are read as they were written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from training.data.shape_scenes import caption_of, sample_scene, split_of
from training.evaluation.truth_grammar import UNKNOWN_PLACE, parse_caption


def test_captions_of_scenes_come_back() -> None:
    for index in range(3000):
        scene = sample_scene(1, index)
        caption = caption_of(scene)
        objects = tuple(replace(item, center=UNKNOWN_PLACE) for item in scene.objects)
        told = parse_caption(caption)
        assert told == replace(scene, objects=objects)
        assert caption_of(told) == caption
        assert split_of(told) == split_of(scene)


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a red star on a grey background",
        "a large red star",
        "a large red star on a red background",
        "A large red star on a grey background",
        "a large red star on a grey background.",
        " a large red star on a grey background",
        "a large red star on a grey background\n",
        "a large red star left a small red ring on a grey background",
        "one small red star on a grey background",
        "five small red stars on a grey background",
        "two large red stars on a grey background",
        "two small red star on a grey background",
        "two small red crosss on a grey background",
        "a large pink star on a grey background",
    ],
)
def test_what_the_grammar_does_not_know(caption: str) -> None:
    with pytest.raises(ValueError, match=r"no caption of the truth task: .*allowed, for example") as error:
        parse_caption(caption)
    assert "\n" not in str(error.value)
    assert repr(caption) in str(error.value)
