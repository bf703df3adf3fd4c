"""What the checker says about pictures that are wrong, or nearly, and about what is no picture of a scene."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tests.training.evaluation.truth_pictures import moved, scene_of, scenes_of
from training.data.shape_scenes import BACKGROUNDS, COLORS, SHAPES, SIZES, Scene, caption_of
from training.data.shapes import render
from training.evaluation.truth import PARTS, check

ONE = "a large red star on a grey background"
TWO = "a small blue ring left of a large white square on a pink background"


def picture_of_one() -> Image.Image:
    return render(scene_of(("large red star", 30, 35)))


def scene_of_two() -> Scene:
    scene = scene_of(("small blue ring", 16, 30), ("large white square", 45, 34), background="pink")
    return Scene("relation", "pink", scene.objects, "left of")


def with_rectangle(image: Image.Image, box: tuple[int, int, int, int], color: str) -> Image.Image:
    ImageDraw.Draw(image).rectangle(box, COLORS[color])
    return image


@pytest.mark.parametrize(
    ("caption", "failed"),
    [
        (ONE, ()),
        ("a large red star on a sky background", ("background",)),
        ("a small red star on a grey background", ("size",)),
        ("a large blue star on a grey background", ("colour",)),
        ("a large red ring on a grey background", ("shape",)),
        ("a small blue ring on a navy background", ("background", "colour", "shape", "size")),
        ("two small red stars on a grey background", ("count",)),
        ("a large red star above a large red star on a pink background", ("background", "count")),
    ],
)
def test_one_object(caption: str, failed: tuple[str, ...]) -> None:
    verdict = check(picture_of_one(), caption)
    assert verdict.failed == failed
    assert verdict.passed == (not failed)
    assert [part for part in PARTS if part in failed] == list(failed)


@pytest.mark.parametrize(
    ("caption", "failed"),
    [
        (TWO, ()),
        ("a large white square right of a small blue ring on a pink background", ()),
        ("a small blue ring right of a large white square on a pink background", ("relation",)),
        ("a small blue ring above a large white square on a pink background", ("relation",)),
        ("a small blue square left of a large white ring on a pink background", ("shape",)),
        ("a small white ring left of a large blue square on a pink background", ("colour",)),
    ],
)
def test_two_objects(caption: str, failed: tuple[str, ...]) -> None:
    assert check(render(scene_of_two()), caption).failed == failed


@pytest.mark.parametrize(("distance", "holds"), [(7, False), (9, True)])
@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below"])
def test_a_relation_holds_from_eight_sixty_fourths(relation: str, distance: float, holds: bool) -> None:
    """The objects are far apart on the other axis; so is the one that has to be on the other side."""
    sign = -1 if relation in ("left of", "above") else 1
    first, second = (32 + sign * distance / 2, 18), (32 - sign * distance / 2, 46)
    if relation in ("above", "below"):
        first, second = first[::-1], second[::-1]
    scene = scene_of(("small red circle", *first), ("small blue cross", *second))
    verdict = check(render(scene), f"a small red circle {relation} a small blue cross on a grey background")
    assert verdict.failed == (() if holds else ("relation",))


def test_the_fewest_mistakes_are_told() -> None:
    """Swapped places are one mistake, not a wrong colour of both."""
    scene = scene_of(("small red star", 46, 32), ("small blue star", 18, 32))
    told = "a small red star left of a small blue star on a grey background"
    assert check(render(scene), told).failed == ("relation",)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("color", COLORS)
def test_every_colour_on_every_background(background: str, color: str) -> None:
    for size in SIZES:
        for shape in SHAPES:
            scene = scene_of((f"{size} {color} {shape}", 33.3, 29.8), background=background)
            assert check(render(scene), caption_of(scene)).passed, (size, shape)


@pytest.mark.parametrize(("side", "failed"), [(1, ()), (2, ("count",)), (4, ("count",)), (6, ("count",))])
def test_what_is_no_object_and_too_large_for_a_speck(side: int, failed: tuple[str, ...]) -> None:
    """An object has 24.6 pixels, a speck less than 2.5."""
    image = with_rectangle(picture_of_one(), (5, 5, 4 + side, 4 + side), "blue")
    assert check(image, ONE).failed == failed


def test_missing_and_additional_objects() -> None:
    told = "three small green circles on a navy background"
    circles = [("small green circle", x, y) for x, y in ((12, 12), (40, 16), (20, 45), (50, 48))]
    for count, failed in ((2, ("count",)), (3, ()), (4, ("count",))):
        assert check(render(scene_of(*circles[:count], background="navy")), told).failed == failed


def test_one_of_several_is_wrong() -> None:
    told = "three small green circles on a navy background"
    circles = [("small green circle", 12, 12), ("small green circle", 40, 16)]
    for other, failed in (
        ("small green ring", "shape"),
        ("small blue circle", "colour"),
        ("large green circle", "size"),
    ):
        image = render(scene_of(*circles, (other, 30, 45), background="navy"))
        assert check(image, told).failed == (failed,)


@pytest.mark.parametrize("shape", ["square", "triangle", "star", "ring", "cross"])
@pytest.mark.parametrize("size", SIZES)
def test_blobs_are_no_shapes(size: str, shape: str) -> None:
    """A circle may look like that."""
    for color, background in (("red", "grey"), ("yellow", "navy"), ("black", "sky")):
        scene = scene_of((f"{size} {color} {shape}", 31, 34), background=background)
        blurred = render(scene).filter(ImageFilter.GaussianBlur(4 if size == "small" else 6))
        assert not check(blurred, caption_of(scene)).passed, (color, background)


def test_a_little_blur_changes_nothing() -> None:
    for scene in scenes_of("attribute", 50, seed=6):
        assert check(render(scene).filter(ImageFilter.GaussianBlur(0.8)), caption_of(scene)).passed


def test_halves_and_pieces_fail() -> None:
    image = with_rectangle(render(scene_of(("large red circle", 32, 32))), (0, 0, 63, 31), "white")
    assert not check(image, "a large red circle on a grey background").passed
    image = picture_of_one()
    image.paste(BACKGROUNDS["grey"], (0, 34, 64, 37))
    assert not check(image, ONE).passed


def test_squares_that_touch_with_a_corner_are_two() -> None:
    """Scenes may have them: centres 17 apart on a diagonal are nearer than the squares are long."""
    scene = scene_of(("small red square", 20, 20), ("small red square", 32.05, 32.05))
    assert check(render(scene), "two small red squares on a grey background").passed
    overlapping = moved(scene, 1, 25, 25)
    assert "count" in check(render(overlapping), "two small red squares on a grey background").failed


def test_what_sticks_out_of_the_canvas() -> None:
    for shape in SHAPES:
        scene = scene_of((f"large black {shape}", 11, 53))
        assert check(render(scene), caption_of(scene)).passed, shape


@pytest.mark.parametrize("shift", [-12, 12])
def test_a_shift_of_all_colours_changes_nothing(shift: int) -> None:
    for scene in scenes_of("attribute", 50, seed=7):
        pixels = np.asarray(render(scene)).astype(int) + shift
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        assert check(image, caption_of(scene)).passed, caption_of(scene)


def test_modes() -> None:
    image = picture_of_one()
    for version in (image.convert("RGBA"), image.quantize(16), image.convert("CMYK")):
        assert check(version, ONE).passed, version.mode
    assert check(image.convert("L"), ONE).failed == ("colour",)
    on_nothing = Image.new("RGBA", (64, 64))
    assert check(on_nothing, ONE).failed == ("background", "count")


def test_no_scene_at_all() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert "count" in check(Image.fromarray(noise), ONE).failed
    assert check(Image.new("RGB", (64, 64), BACKGROUNDS["grey"]), ONE).failed == ("count",)


@pytest.mark.parametrize("size", [(64, 32), (31, 31), (0, 0)])
def test_sizes_that_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]}.*allowed: square ones from 32x32"):
        check(Image.new("RGB", size), ONE)


def test_a_hundred_pictures_a_second() -> None:
    scenes = scenes_of("relation", 100, seed=8)
    pictures = [(render(scene), caption_of(scene)) for scene in scenes]
    check(*pictures[0])  # Draws the templates.
    seconds = []
    for _ in range(3):
        start = time.process_time()
        for image, caption in pictures:
            check(image, caption)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1
