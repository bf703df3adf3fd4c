"""The checker is right: 99.9% of rendered scenes pass with their caption and fail with one that is false by a word."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest
from PIL import Image

from tests.training.evaluation.truth_pictures import after_jpeg, after_noise, false_captions, scenes_of
from training.data.shape_scenes import KINDS, Scene, caption_of
from training.data.shapes import render
from training.evaluation.truth import check

LEAST = 0.999


def versions_of(scene: Scene, size: int, seed: int) -> dict[str, Image.Image]:
    image = render(scene, size)
    return {"as it is": image, "jpeg": after_jpeg(image), "noise": after_noise(image, seed)}


def judged(scenes: Iterable[Scene], versions: tuple[str, ...], size: int) -> Iterator[tuple[str, bool, bool]]:
    """Yield, by version of each picture, whether it is right with its own caption and with one that is false.

    With the false one, exactly the part that was changed has to fail.
    """
    draw = random.Random(1)
    for number, scene in enumerate(scenes):
        images = versions_of(scene, size, number)
        caption = caption_of(scene)
        for version in versions:
            # The part first: a scene has more other colours than other relations.
            alternatives = list(false_captions(caption))
            part = draw.choice(sorted({part for _, part in alternatives}))
            false = draw.choice([told for told, other in alternatives if other == part])
            yield version, check(images[version], caption).passed, check(images[version], false).failed == (part,)


def assert_right(scenes: list[Scene], versions: tuple[str, ...], size: int = 64) -> None:
    accepted, rejected = Counter(), Counter()
    for version, accepts, rejects in judged(scenes, versions, size):
        accepted[version] += accepts
        rejected[version] += rejects
    for version in versions:
        assert accepted[version] >= LEAST * len(scenes), (version, accepted[version])
        assert rejected[version] >= LEAST * len(scenes), (version, rejected[version])


@pytest.mark.parametrize("kind", KINDS)
def test_scenes(kind: str) -> None:
    assert_right(scenes_of(kind, 100, seed=1), ("as it is", "jpeg", "noise"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_thousands_of_scenes(kind: str) -> None:
    assert_right(scenes_of(kind, 2000, seed=2), ("as it is", "jpeg", "noise"))


@pytest.mark.parametrize("size", [96, 128])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_larger_pictures(kind: str, size: int) -> None:
    assert_right(scenes_of(kind, 150, seed=3), ("as it is", "jpeg", "noise"), size)


@pytest.mark.parametrize("size", [32, 33, 48, 65, 128])
def test_other_sizes(size: int) -> None:
    """At 32 pixels JPEG would keep one value of colour for two rings' strokes: that no checker can undo."""
    scenes = [scene for kind in KINDS for scene in scenes_of(kind, 12, seed=4)]
    assert_right(scenes, ("as it is", "noise"), size)


def test_every_caption_that_is_false_by_a_word_is_told() -> None:
    told = "a small red ring left of a small red ring on a sky background"
    parts = Counter(part for _, part in false_captions(told))
    # The other way round it is as true.
    assert parts == {"size": 2, "colour": 14, "shape": 10, "background": 3, "relation": 2}
    told = "two small red rings on a sky background"
    assert Counter(part for _, part in false_captions(told)) == {"count": 2, "colour": 7, "shape": 5, "background": 3}
    assert ("two small red crosses on a sky background", "shape") in false_captions(told)


@pytest.mark.parametrize("kind", KINDS)
def test_all_false_captions_of_a_scene_fail(kind: str) -> None:
    for scene in scenes_of(kind, 15, seed=5):
        image = render(scene)
        for false, part in false_captions(caption_of(scene)):
            assert check(image, false).failed == (part,), (caption_of(scene), false)
