"""Tiles of annotated images: where they lie, how they are turned, and that nothing is invented on the way."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.elastic_deformation import resampled
from training.data.labelled_tiles import (
    Augmentation,
    TileSize,
    centred_start,
    changed_grey_values,
    moved_places,
    random_start,
    tile_places,
)

SIZE = TileSize(input_size=20, output_size=12)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_plain_tile_is_a_cut_of_the_image_with_its_margin_around():
    image = np.arange(40 * 50).reshape(40, 50)
    places = tile_places((10, 20), SIZE)
    assert SIZE.margin == 4
    assert np.array_equal(resampled(image, places), image[6:26, 16:36])
    known = places[:, SIZE.middle, SIZE.middle]
    assert np.array_equal(resampled(image, known, is_label=True), image[10:22, 20:32])


def test_outputs_lie_in_the_image_or_hold_it_whole(rng):
    large = {random_start(rng, 15, 12) for _ in range(200)}
    assert large == {0, 1, 2, 3}
    small = {random_start(rng, 9, 12) for _ in range(200)}
    assert small == {-3, -2, -1, 0}
    assert random_start(rng, 12, 12) == 0
    assert (centred_start(15, 12), centred_start(12, 12), centred_start(9, 12)) == (1, 0, -2)


def test_beyond_the_border_is_the_mirror_image():
    image = np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)
    tile = resampled(image, tile_places((2, 2), SIZE), is_label=True)
    assert np.array_equal(tile, np.pad(image, 4, mode="reflect")[2:22, 2:22])


def test_nothing_asked_for_moves_nothing(rng):
    places = tile_places((3, 5), SIZE)
    assert np.allclose(moved_places(rng, places, Augmentation()), places, atol=1e-12)


def test_rotations_keep_distances_from_the_centre_and_flips_keep_rows(rng):
    places = tile_places((3, 5), SIZE)
    centre = places.mean(axis=(1, 2), keepdims=True)
    turned = moved_places(rng, places, Augmentation(max_rotation=180))
    assert np.allclose(np.hypot(*(turned - centre)), np.hypot(*(places - centre)))
    assert not np.allclose(turned, places)
    flips = [moved_places(rng, places, Augmentation(random_flip=True)) for _ in range(40)]
    mirrored = [np.allclose(one[1], places[1, :, ::-1]) for one in flips]
    assert all(np.allclose(one[0], places[0]) for one in flips)
    assert all(np.allclose(one[1], places[1]) for one, is_flip in zip(flips, mirrored, strict=True) if not is_flip)
    assert 10 < sum(mirrored) < 30


def test_elastic_displacements_have_their_deviation(rng):
    places = tile_places((0, 0), SIZE)
    moved = [moved_places(rng, places, Augmentation(elastic_std=3.0)) - places for _ in range(500)]
    corners = np.stack(moved)[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.std() == pytest.approx(3.0, rel=0.05)


def test_grey_values_change_in_contrast_and_brightness(rng):
    values = rng.standard_normal((8, 8)).astype(np.float32)
    assert np.array_equal(changed_grey_values(rng, values, 0.0), values)
    changed = np.stack([changed_grey_values(rng, values, 0.2) for _ in range(2000)])
    assert changed.dtype == np.float32
    slopes = [np.polyfit(values.ravel(), one.ravel(), 1) for one in changed]
    assert np.std(np.log([slope for slope, _ in slopes])) == pytest.approx(0.2, rel=0.1)
    assert np.std([offset for _, offset in slopes]) == pytest.approx(0.2, rel=0.1)
