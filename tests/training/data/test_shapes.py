"""The truth task's scenes and pictures against the numbers of its definition, written down here once more."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections import Counter

import numpy as np
import pytest

from training.data.errors import DataError
from training.data.shape_scenes import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    caption_of,
    held_out_pairs_of,
    sample_scene,
    split_of,
)
from training.data.shapes import ShapesSource, render

PAIRS = {"star red", "cross blue", "ring green", "triangle yellow", "circle purple", "square orange"}
OBJECT = (
    "(?:small|large) (?:red|green|blue|yellow|purple|orange|white|black) (?:circle|square|triangle|star|ring|cross)"
)
BACKGROUND = "on a (?:grey|pink|sky|navy) background"
GRAMMAR = {
    "attribute": f"a {OBJECT} {BACKGROUND}",
    "relation": f"a {OBJECT} (?:left of|right of|above|below) a {OBJECT} {BACKGROUND}",
    "count": "(?:two|three|four) small (?:red|green|blue|yellow|purple|orange|white|black) "
    f"(?:circles|squares|triangles|stars|rings|crosses) {BACKGROUND}",
}
# Areas in squares of the radius.
AREAS = {
    "circle": np.pi,
    "square": 1.76**2,
    "triangle": 1.85,
    "star": 10 * 0.5 * 0.42 * np.sin(np.pi / 5),
    "ring": np.pi * (1 - 0.36),
    "cross": 4 * 0.7 - 0.7**2,
}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [sample_scene(7, index) for index in range(20_000)]


def one_object(shape: str, center: tuple[float, float] = (0.5, 0.5), size: str = "large") -> Scene:
    return Scene("attribute", "navy", (SceneObject(size, "white", shape, center),))


def coverage(scene: Scene, size: int = 64) -> np.ndarray:
    """How much of each pixel a white object on navy covers, 0 to 1, float64 of shape (size, size)."""
    return (np.asarray(render(scene, size), dtype=np.float64)[..., 0] - 25) / (250 - 25)


def uniform_chi_square(counts: Counter[str], choices: int) -> float:
    expected = sum(counts.values()) / choices
    assert len(counts) == choices
    return sum((count - expected) ** 2 / expected for count in counts.values())


def test_a_scene_is_a_pure_function_of_seed_and_index(scenes: list[Scene]) -> None:
    assert [sample_scene(7, index) for index in (19_999, 5, 0)] == [scenes[19_999], scenes[5], scenes[0]]
    assert sample_scene(8, 0) != scenes[0]
    assert len({(caption_of(scene), scene.objects[0].center) for scene in scenes}) == len(scenes)


def test_kinds_come_in_their_shares(scenes: list[Scene]) -> None:
    counts = Counter(scene.kind for scene in scenes)
    for kind, share in {"attribute": 0.35, "relation": 0.40, "count": 0.25}.items():
        assert abs(counts[kind] / len(scenes) - share) < 4 * np.sqrt(share * (1 - share) / len(scenes))


def test_everything_that_is_chosen_is_chosen_uniformly(scenes: list[Scene]) -> None:
    objects = [item for scene in scenes for item in scene.objects if scene.kind != "count"]
    assert uniform_chi_square(Counter(item.color for item in objects), 8) < 30
    assert uniform_chi_square(Counter(item.shape for item in objects), 6) < 27
    assert uniform_chi_square(Counter(item.size for item in objects), 2) < 17
    assert uniform_chi_square(Counter(scene.background for scene in scenes), 4) < 22
    assert uniform_chi_square(Counter(str(scene.relation) for scene in scenes if scene.relation), 4) < 22
    counts = [scene for scene in scenes if scene.kind == "count"]
    assert uniform_chi_square(Counter(str(len(scene.objects)) for scene in counts), 3) < 20
    assert uniform_chi_square(Counter(scene.objects[0].color for scene in counts), 8) < 30
    assert uniform_chi_square(Counter(scene.objects[0].shape for scene in counts), 6) < 27


def test_captions_follow_the_grammar(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert re.fullmatch(GRAMMAR[scene.kind], caption_of(scene)), caption_of(scene)


def test_captions_tell_the_scene() -> None:
    first, second = (
        SceneObject("small", "orange", "cross", (0.3, 0.5)),
        SceneObject("large", "red", "ring", (0.7, 0.5)),
    )
    assert caption_of(Scene("attribute", "sky", (first,))) == "a small orange cross on a sky background"
    told = "a small orange cross left of a large red ring on a grey background"
    assert caption_of(Scene("relation", "grey", (first, second), "left of")) == told
    assert (
        caption_of(Scene("count", "pink", (first, first, first))) == "three small orange crosses on a pink background"
    )


def test_attribute_centres(scenes: list[Scene]) -> None:
    centers = np.array([scene.objects[0].center for scene in scenes if scene.kind == "attribute"]) * 64
    assert centers.min() >= 16
    assert centers.max() <= 48
    np.testing.assert_allclose(centers.mean(axis=0), 32, atol=0.5)
    np.testing.assert_allclose(centers.std(axis=0), 32 / np.sqrt(12), rtol=0.03)


@pytest.mark.parametrize(
    ("relation", "axis", "sign"), [("left of", 0, 1), ("right of", 0, -1), ("above", 1, 1), ("below", 1, -1)]
)
def test_relation_centres(scenes: list[Scene], relation: str, axis: int, sign: int) -> None:
    centers = (
        np.array([[item.center for item in scene.objects] for scene in scenes if scene.relation == relation]) * 64
    )
    start = np.full((2, 2), 32.0)
    start[:, axis] = (17, 47)[::sign]
    moved = centers - start
    assert abs(moved).max() <= 4 + 2
    assert abs(moved[:, 0] - moved[:, 1]).max() <= 2 + 2  # What both share has gone.
    assert (sign * (centers[:, 1, axis] - centers[:, 0, axis])).min() >= 26
    # Variances of uniform draws: together over 8, each alone over 4.
    np.testing.assert_allclose(moved.var(axis=0), (8**2 + 4**2) / 12, rtol=0.12)
    np.testing.assert_allclose((moved[:, 0] * moved[:, 1]).mean(axis=0), 8**2 / 12, rtol=0.15)


def test_counted_objects_are_equal_small_and_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        if scene.kind == "count":
            assert len({(item.size, item.color, item.shape) for item in scene.objects}) == 1
            assert scene.objects[0].size == "small"
            centers = np.array([item.center for item in scene.objects]) * 64
            assert centers.min() >= 9
            assert centers.max() <= 55
            gaps = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
            assert gaps[~np.eye(len(centers), dtype=bool)].min() >= 17 - 1e-9


def test_splits(scenes: list[Scene]) -> None:
    for scene in scenes:
        has_pair = any(f"{item.shape} {item.color}" in PAIRS for item in scene.objects)
        number = int(hashlib.sha256(caption_of(scene).encode("utf-8")).hexdigest()[:8], 16)
        assert split_of(scene) == ("pair" if has_pair else "caption" if number % 10 == 0 else "seen")


def test_sources_hold_their_split_alone() -> None:
    captions = {}
    for split in ("seen", "caption", "pair"):
        source = ShapesSource(split, num_samples=300, seed=3)
        assert len(source) == len(source.captions) == 300
        assert {split_of(source.scene(index)) for index in range(300)} == {split}
        assert source.captions == [caption_of(source.scene(index)) for index in range(300)]
        captions[split] = set(source.captions)
    assert not captions["seen"] & captions["caption"]
    assert not (captions["seen"] | captions["caption"]) & captions["pair"]


def test_a_source_is_the_first_scenes_of_its_split() -> None:
    few, many = ShapesSource(num_samples=20, seed=5), ShapesSource(num_samples=60, seed=5)
    assert few.captions == many.captions[:20]
    seen = [number for number in range(int(few.scene_numbers[-1]) + 1) if split_of(sample_scene(5, number)) == "seen"]
    assert few.scene_numbers.tolist() == seen
    assert few.name(1) == f"shapes, scene {seen[1]} of seed 5"


def test_a_source_draws_the_same_pictures_after_pickling() -> None:
    source = ShapesSource(num_samples=5)
    copy = pickle.loads(pickle.dumps(source))
    assert all(np.array_equal(np.asarray(source.image(i)), np.asarray(copy.image(i))) for i in range(5))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("side", [64, 128])
def test_areas_and_extents(shape: str, size: str, side: int) -> None:
    radius = {"small": 7 / 64, "large": 12 / 64}[size] * side
    covered = coverage(one_object(shape, (0.43, 0.52), size), side)
    assert covered.sum() == pytest.approx(AREAS[shape] * radius**2, rel=0.03)
    rows, columns = np.nonzero(covered > 0.02)
    half = {"square": 0.88}.get(shape, 1.0) * radius
    low = {"square": 0.88, "triangle": 0.85, "star": np.cos(np.pi / 5)}.get(shape, 1.0) * radius
    wide = half if shape != "star" else np.sin(2 * np.pi / 5) * radius
    expected = (0.43 * side - wide, 0.43 * side + wide, 0.52 * side - half, 0.52 * side + low)
    np.testing.assert_allclose((columns.min(), columns.max() + 1, rows.min(), rows.max() + 1), expected, atol=1.3)


def test_inner_measures() -> None:
    middle = coverage(one_object("ring"), 256)[128]
    np.testing.assert_allclose(np.flatnonzero(middle > 0.5)[[0, -1]], (128 - 48, 128 + 47), atol=1)
    np.testing.assert_allclose(np.flatnonzero(np.diff(middle > 0.5))[[1, 2]], (128 - 28.8, 128 + 28.8), atol=1.5)
    arm = coverage(one_object("cross"), 256)[128 - 40]
    np.testing.assert_allclose(arm.sum(), 2 * 0.35 * 48, atol=1)
    # The star's notch straight below its centre is an inner corner.
    notch = coverage(one_object("star"), 256)[128:, 128]
    np.testing.assert_allclose((notch > 0.5).sum(), 0.42 * 48, atol=1.5)


def test_shapes_point_upwards_and_are_symmetric() -> None:
    for shape in SHAPES:
        covered = coverage(one_object(shape))
        np.testing.assert_allclose(covered, covered[:, ::-1], atol=1e-9)
    for shape in ("triangle", "star"):
        covered = coverage(one_object(shape))
        assert covered[20:23].sum() < covered[39:42].sum()


def test_colors_are_the_palette() -> None:
    assert BACKGROUNDS["sky"] == (170, 215, 250)
    assert COLORS["purple"] == (150, 60, 180)
    assert (len(BACKGROUNDS), len(COLORS), len(SHAPES), len(SIZES)) == (4, 8, 6, 2)
    for color, rgb in COLORS.items():
        for background, ground in BACKGROUNDS.items():
            picture = render(Scene("attribute", background, (SceneObject("large", color, "circle", (0.5, 0.5)),)))
            assert picture.getpixel((32, 32)) == rgb
            assert picture.getpixel((0, 0)) == ground


def test_pictures_of_two_sizes_show_the_same_scene(scenes: list[Scene]) -> None:
    for scene in scenes[:40]:
        small, large = render(scene, 64), render(scene, 128)
        assert (small.size, large.size) == ((64, 64), (128, 128))
        difference = np.abs(np.asarray(large.reduce(2), dtype=np.int64) - np.asarray(small, dtype=np.int64))
        assert difference.mean() < 1.5


def test_edges_are_smooth() -> None:
    covered = coverage(one_object("circle"))
    assert ((covered > 0.1) & (covered < 0.9)).sum() > 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "train"}, "no split 'train'; allowed: seen, caption, pair"),
        ({"num_samples": 0}, "0 pictures of 64 pixels"),
        ({"size": 0}, "pictures of 0 pixels"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ShapesSource(**arguments)


def test_scenes_of_some_pairs_hold_one_of_them_and_no_other_held_out_pair() -> None:
    wanted = {("ring", "green"), ("square", "orange")}
    source = ShapesSource("pair", 60, 32, pairs=[list(pair) for pair in wanted])
    held = [held_out_pairs_of(source.scene(number)) for number in range(60)]
    assert all(pairs and pairs <= wanted for pairs in held)
    assert set().union(*held) == wanted
    assert all(split_of(source.scene(number)) == "pair" for number in range(60))
