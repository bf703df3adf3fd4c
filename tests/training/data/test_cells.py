"""The synthetic micrographs as a data set."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.cell_scenes import sample_cells
from training.data.cells import CellsSource
from training.data.errors import DataError


def test_images_and_labels_are_those_of_the_scenes() -> None:
    source = CellsSource("train", 2, seed=5)
    assert len(source) == 2
    for index in range(2):
        image, instances = sample_cells(5, index, 256)
        assert np.array_equal(source.image(index), image)
        assert np.array_equal(source.labels(index), instances)
    assert (source.image(0).dtype, source.labels(0).dtype) == (np.uint8, np.int32)
    assert source.name(1) == "cells, train image 1"


def test_no_image_is_in_two_splits_or_seeds() -> None:
    sources = [CellsSource(split, 2, seed) for split in ("train", "validation", "test") for seed in (0, 1)]
    drawn = {source.image(index).tobytes() for source in sources for index in range(2)}
    assert len(drawn) == 12


def test_what_a_caller_does_to_an_image_stays_with_it() -> None:
    source = CellsSource("train", 1)
    image, labels = source.image(0), source.labels(0)
    image[:], labels[:] = 0, 0
    assert source.image(0).any()
    assert source.labels(0).any()


def test_more_images_begin_with_the_same_ones() -> None:
    assert np.array_equal(CellsSource("test", 1).image(0), CellsSource("test", 30).image(0))


def test_errors() -> None:
    with pytest.raises(DataError, match=r"^cells has no split 'all'; allowed: train, validation, test$"):
        CellsSource("all", 1)
    with pytest.raises(DataError, match=r"^data\.num_samples is 0; allowed for cells: at least 1$"):
        CellsSource("train", 0)
    with pytest.raises(IndexError, match=r"^cells, train image 1: there are 1$"):
        CellsSource("train", 1).labels(1)
