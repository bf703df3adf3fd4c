"""The synthetic micrographs: cells that are whole, touch, and can be told apart from what is in the picture."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from sd_pipeline.label_maps import outlines
from training.data.cell_scenes import sample_cells
from training.data.label_rules import separated


@pytest.mark.parametrize("index", range(4))
def test_cells_are_whole_and_numbered_without_gaps(index):
    image, instances = sample_cells(0, index, 160)
    assert (image.shape, image.dtype, instances.shape, instances.dtype) == ((160, 160), np.uint8, (160, 160), np.int32)
    numbers = np.unique(instances)
    assert np.array_equal(numbers, np.arange(len(numbers)))
    assert len(numbers) > 10
    for number in numbers[1:]:
        cell = instances == number
        assert label(cell)[1] == 1
        assert cell.sum() >= 60


def test_a_micrograph_is_a_function_of_seed_and_index():
    image, instances = sample_cells(3, 5, 96)
    again = sample_cells(3, 5, 96)
    assert np.array_equal(image, again[0])
    assert np.array_equal(instances, again[1])
    assert not np.array_equal(image, sample_cells(3, 6, 96)[0])
    assert not np.array_equal(image, sample_cells(4, 5, 96)[0])


def touching(instances: np.ndarray) -> int:
    pairs = [(instances[1:], instances[:-1]), (instances[:, 1:], instances[:, :-1])]
    met = {(min(p), max(p)) for a, b in pairs for p in zip(a[(a != b)], b[(a != b)], strict=True) if min(p) > 0}
    return len(met)


def test_many_cells_touch_and_a_line_separates_them():
    merged, apart, cells, met = 0, 0, 0, 0
    for index in range(6):
        _, instances = sample_cells(1, index, 160)
        cells += int(instances.max())
        met += touching(instances)
        merged += label(instances > 0)[1]
        apart += label(separated(instances))[1]
    assert met > cells / 2
    assert merged < cells / 2, "without the line, cells that touch are one"
    assert apart == pytest.approx(cells, rel=0.05)


def test_the_line_takes_both_sides_of_where_cells_meet_and_no_more():
    instances = np.zeros((6, 8), dtype=np.int32)
    instances[1:5, 1:4], instances[1:5, 4:7] = 1, 2
    classes = separated(instances)
    expected = (instances > 0).astype(np.uint8)
    expected[1:5, 3:5] = 0
    assert np.array_equal(classes, expected)


def test_membranes_are_darker_than_the_cells_they_are_of():
    """What tells two touching cells apart is in the picture."""
    differences = []
    for index in range(4):
        image, instances = sample_cells(2, index, 160)
        edge = outlines(instances)
        differences.append(image[(instances > 0) & ~edge].mean() - image[edge].mean())
    assert min(differences) > 5
