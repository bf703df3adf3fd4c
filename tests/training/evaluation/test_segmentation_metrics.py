"""Measures of the pixels of a segmentation against values known by hand, and definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from training.evaluation.segmentation_metrics import class_iou, pixel_error, simple_points, warped, warping_error

EIGHT = np.ones((3, 3), dtype=bool)


def drawing(text: str) -> np.ndarray:
    """Read a map of one digit a pixel, `.` for 0."""
    return np.array([[int(pixel) for pixel in row] for row in text.replace(".", "0").split()])


# Two squares of 4 x 4 that touch.
PAIR = np.zeros((8, 12), dtype=np.int32)
PAIR[2:6, 2:6], PAIR[2:6, 6:10] = 1, 2
MERGED = (PAIR > 0).astype(np.int32)
MISSED = np.where(PAIR == 1, PAIR, 0)
NOTHING = np.zeros_like(PAIR)


def test_pixel_error():
    assert pixel_error(PAIR, PAIR) == 0
    assert pixel_error(MERGED > 0, PAIR > 0) == 0
    assert pixel_error((MISSED > 0).astype(np.uint8), MERGED) == 16 / 96
    assert pixel_error(1 - MERGED, MERGED) == 1


def test_class_iou():
    truth, labels = drawing("0011 0011"), drawing("0111 0013")
    np.testing.assert_array_equal(class_iou(labels, truth, 5), [3 / 4, 3 / 5, np.nan, 0, np.nan])
    np.testing.assert_array_equal(class_iou(truth.astype(np.uint8), truth, 2), [1, 1])
    many = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(class_iou(many, many, 256), np.ones(256))


def test_simple_points_are_those_whose_flip_keeps_the_pieces():
    """A flip is homotopic if it changes the number of neither the objects nor the pieces of background around it."""
    simple = simple_points()
    for neighbours in itertools.product((0, 1), repeat=8):
        pieces = []
        for middle in (0, 1):
            patch = np.array([*neighbours[:4], middle, *neighbours[4:]]).reshape(3, 3)
            pieces.append((ndimage.label(patch)[1], ndimage.label(1 - patch, EIGHT)[1]))
        number = sum(value << bit for bit, value in enumerate(neighbours))
        assert simple[number] == (pieces[0] == pieces[1])
    assert simple.sum() == 116


def pieces_of(binary: np.ndarray) -> tuple[int, int]:
    padded = np.pad(np.asarray(binary, dtype=bool), 1)
    return ndimage.label(padded)[1], ndimage.label(~padded, EIGHT)[1]


@pytest.mark.parametrize("seed", range(6))
def test_warping_keeps_objects_and_holes_and_leaves_no_simple_point(seed):
    rng = np.random.default_rng(seed)
    source, target = (ndimage.gaussian_filter(rng.normal(size=(2, 40, 50)), (0, 2, 2)) > 0).astype(int)
    result = warped(source, target)
    assert pieces_of(result) == pieces_of(source)
    assert (result != source)[source == target].sum() == 0
    for row, column in zip(*np.nonzero(result != target), strict=True):
        flipped = result.copy()
        flipped[row, column] ^= True
        assert pieces_of(flipped) != pieces_of(result)


CELLS = drawing(
    """
    ............
    .1111.1111..
    .1111.1111..
    .1111.1111..
    .1111.1111..
    ............
    ............
    """
)


def test_warping_error_of_borders_is_0():
    assert warping_error(CELLS, CELLS) == 0
    assert warping_error(np.roll(CELLS, 1, axis=0), CELLS) == 0
    assert warping_error(np.roll(CELLS, (2, 1), axis=(0, 1)), CELLS) == 0
    assert warping_error(ndimage.binary_erosion(CELLS), CELLS) == 0
    assert warping_error(CELLS, ndimage.binary_erosion(CELLS)) == 0
    # A wide round cell from a single pixel of it, at the border of the picture too.
    rows, columns = np.mgrid[:40, :40]
    for middle in (20, 0):
        cell = (rows - middle) ** 2 + (columns - 15) ** 2 < 12**2
        seed = (rows == middle) & (columns == 15)
        assert warping_error(cell, seed) == warping_error(seed, cell) == 0


def test_warping_error_of_other_topologies():
    size = CELLS.size
    merged = CELLS.copy()
    merged[2:4, 5] = 1
    assert warping_error(merged, CELLS) == 2 / size
    # The other way round, one pixel across the gap is left of the bridge.
    assert warping_error(CELLS, merged) == 1 / size
    touching_with_a_corner = drawing(".... 11.. 11.. ..11 ..11 ....")
    assert warping_error(touching_with_a_corner, drawing(".... 11.. 11.. ...1 ..11 ....")) == 0
    hole = CELLS.copy()
    hole[2:4, 2:4] = 0
    assert warping_error(hole, CELLS) == 4 / size
    invented = CELLS.copy()
    invented[6, 9:12] = 1
    assert warping_error(invented, CELLS) == 3 / size
    assert warping_error(CELLS, invented) == 1 / size
    missed = CELLS * (np.arange(12) < 5)
    assert warping_error(missed, CELLS) == 1 / size


def test_a_wide_gap_may_be_filled_but_for_a_line():
    cells = drawing("........ .11..11. .11..11. ........")
    assert warping_error(drawing("........ .111111. .111111. ........"), cells) == 2 / 32


def assert_wrong_maps_are_refused(measure) -> None:
    with pytest.raises(ValueError, match=r"must be integers >= 0 of shape \(height, width\), got float64 of shape"):
        measure(PAIR.astype(float), PAIR)
    with pytest.raises(ValueError, match="truth must be integers >= 0, got -1"):
        measure(PAIR, PAIR - 1)
    with pytest.raises(ValueError, match=r"got int32 of shape \(1, 8, 12\)"):
        measure(PAIR[None], PAIR)
    with pytest.raises(ValueError, match="got int32 of shape"):
        measure(PAIR[:0], PAIR[:0])
    with pytest.raises(ValueError, match=r"one shape, got \w+ \(7, 12\), truth \(8, 12\)"):
        measure(PAIR[1:], PAIR)


@pytest.mark.parametrize("measure", [pixel_error, lambda labels, truth: class_iou(labels, truth, 9), warping_error])
def test_wrong_maps(measure):
    assert_wrong_maps_are_refused(measure)


def test_wrong_values():
    with pytest.raises(ValueError, match="classes from 0 to 1, got 2"):
        class_iou(PAIR, PAIR, 2)
    with pytest.raises(ValueError, match=r"truth must be 0 .background. or 1 .object. everywhere, got 2"):
        warping_error(MERGED, PAIR)
