"""Masks for inpainting: what is drawn, how much of the picture it takes, and from what."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.mask_sampling import KINDS, LEAST_AREA, sample_mask
from training.engine.random_streams import sample_rng


def masks(count: int, height: int = 64, width: int = 64) -> list[np.ndarray]:
    return [sample_mask(sample_rng(0, "mask", number), height, width) for number in range(count)]


def test_a_mask_is_a_function_of_its_generator():
    for first, second in zip(masks(20), masks(20), strict=True):
        assert np.array_equal(first, second)
    assert len({mask.tobytes() for mask in masks(20)}) > 15


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (7, 5), (1, 40), (2, 1)])
def test_shape_type_and_area(size):
    for mask in masks(200, *size):
        assert (mask.shape, mask.dtype) == (size, bool)
        assert mask.mean() >= LEAST_AREA


def test_areas_range_from_little_to_nearly_everything_and_all_holes_are_as_rare_as_said():
    areas = np.array([mask.mean() for mask in masks(4000)])
    everything = areas == 1
    assert abs(everything.mean() - KINDS["everything"]) < 0.015
    others = areas[~everything]
    assert others.min() < 0.05
    assert others.max() > 0.85
    assert 0.25 < others.mean() < 0.55


def test_every_kind_of_border_occurs():
    """A kept rectangle in a hole: it may touch each side of the picture or not."""
    seen = set()
    for mask in masks(2000):
        kept = ~mask
        rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
        if len(rows) == 0 or not kept[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all():
            continue
        seen.add((rows[0] == 0, rows[-1] == 63, columns[0] == 0, columns[-1] == 63))
    assert len(seen) >= 15


def test_strokes_are_connected_lines_and_not_rectangles():
    shares = []
    for mask in masks(500):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        shares.append(mask.sum() / ((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)))
    assert np.mean(np.array(shares) < 0.6) > 0.2, "about a third of the masks fill their bounding box badly"
