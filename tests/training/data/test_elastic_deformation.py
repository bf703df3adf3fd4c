"""Elastic deformations: as the paper draws them, image and labels together, and no label invented."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import zoom

from training.data.elastic_deformation import DISPLACEMENT_STD, displacement_field, resampled


def deformed(image: np.ndarray, field: np.ndarray, is_label: bool = False) -> np.ndarray:
    return resampled(image, np.indices(field.shape[1:]) + field, is_label)


def test_displacements_on_the_grid_are_normal_of_10_pixels():
    fields = [displacement_field(np.random.default_rng(seed), (65, 97)) for seed in range(400)]
    assert fields[0].shape == (2, 65, 97)
    on_grid = np.stack(fields)[:, :, ::32, ::48]
    assert on_grid.shape == (400, 2, 3, 3)
    assert on_grid.std() == pytest.approx(DISPLACEMENT_STD, rel=0.05)
    assert abs(on_grid.mean()) < 1
    neighbours = np.abs(np.diff(fields[0], axis=1)).max()
    assert neighbours < 3, "smooth between the points of the grid"


def test_they_are_bicubic_between_the_points_of_the_grid():
    field = displacement_field(np.random.default_rng(0), (20, 31))
    coarse = np.random.default_rng(0).normal(0, DISPLACEMENT_STD, (2, 3, 3))
    expected = [zoom(one, (20 / 3, 31 / 3), order=3, mode="mirror", grid_mode=False) for one in coarse]
    assert np.allclose(field, expected, atol=1e-12)


def test_no_displacement_changes_nothing_and_a_constant_one_shifts():
    image = np.random.default_rng(0).integers(0, 65536, (20, 30), dtype=np.uint16)
    still = np.zeros((2, 20, 30))
    assert np.array_equal(deformed(image, still), image)
    assert np.array_equal(deformed(image, still, is_label=True), image)
    down = still.copy()
    down[0] = 3
    assert np.array_equal(deformed(image, down)[:-3], image[3:])
    assert np.array_equal(deformed(image, down, is_label=True)[:-3], image[3:])
    # Mirrored beyond the border, whose pixels are not repeated.
    assert np.array_equal(deformed(image, down, is_label=True)[-3:], image[-2:-5:-1])


def test_labels_are_never_interpolated_and_move_with_the_image():
    rows, columns = np.indices((64, 64))
    labels = np.where((rows - 30) ** 2 + (columns - 34) ** 2 < 15**2, 900, 0).astype(np.int32)
    image = np.where(labels > 0, 200, 20).astype(np.uint8)
    field = displacement_field(np.random.default_rng(1), labels.shape, std=4)
    moved, with_it = deformed(labels, field, is_label=True), deformed(image, field)
    assert set(np.unique(moved)) == {0, 900}
    assert not np.array_equal(moved, labels)
    assert ((with_it > 110) == (moved > 0)).mean() > 0.99
    assert with_it.min() >= 20
    assert with_it.max() <= 200
    assert (with_it.dtype, moved.dtype) == (np.uint8, np.int32)


def test_channels_move_alike():
    image = np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)
    field = displacement_field(np.random.default_rng(2), (16, 16), std=2)
    together = deformed(image, field)
    assert together.dtype == np.float32
    for channel in range(3):
        alone = deformed(image[..., channel], field)
        assert np.allclose(together[..., channel].clip(alone.min(), alone.max()), alone)
