"""An image and its cells in one picture, and out of it again."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.annotated_pictures import annotated_picture, image_and_cells
from training.data.cell_scenes import sample_cells
from training.evaluation.instance_metrics import average_precision, seg_measure


@pytest.mark.parametrize("index", range(3))
def test_what_is_put_in_comes_out_nearly_whole(index):
    image, instances = sample_cells(3, index, 160)
    picture = annotated_picture(image, instances)
    assert (picture.shape, picture.dtype) == ((160, 160, 3), np.uint8)
    same, cells = image_and_cells(picture)
    assert np.array_equal(same, image)
    assert seg_measure(cells, instances) > 0.97
    assert average_precision(cells, instances, [0.75])[0] > 0.95
    assert set(np.unique(cells)) == set(range(cells.max() + 1))


def test_a_drawn_picture_may_be_noisy():
    image, instances = sample_cells(3, 0, 160)
    picture = annotated_picture(image, instances).astype(float)
    noise = np.random.default_rng(0).normal(0, 15, picture[..., 1:].shape)
    picture[..., 1:] = (0.95 * picture[..., 1:] + 6 + noise).clip(0, 255)
    cells = image_and_cells(picture.astype(np.uint8))[1]
    assert seg_measure(cells, instances) > 0.9


def test_a_picture_without_cells_has_none():
    image, cells = image_and_cells(np.zeros((8, 9, 3), dtype=np.uint8))
    assert image.shape == cells.shape == (8, 9)
    assert not cells.any()
