"""Sources of labelled images: parts of a source, and pairs of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.data.label_files import grey_image, save, save_labels
from training.data.cells import CellsSource
from training.data.errors import DataError
from training.data.label_images import StoredImage
from training.data.label_rules import LabelRules
from training.data.labelled_source import LabelledFiles, LabelledSubset


def stored(path: Path) -> StoredImage:
    return StoredImage(str(path), str(path))


def test_a_subset_has_the_chosen_samples() -> None:
    whole = CellsSource("train", 3)
    subset = LabelledSubset(whole, [2, 0])
    assert len(subset) == 2
    for index, chosen in enumerate((2, 0)):
        assert np.array_equal(subset.image(index), whole.image(chosen))
        assert np.array_equal(subset.labels(index), whole.labels(chosen))
        assert subset.name(index) == whole.name(chosen)


def test_the_rules_hold_for_labels_and_name_their_file(tmp_path: Path) -> None:
    pair = stored(save(tmp_path / "a.png", grey_image())), stored(tmp_path / "b.png")
    labels = save_labels(tmp_path / "b.png", num_labels=6)
    source = LabelledFiles([pair], LabelRules("classes", 6), {})
    assert (len(source), source.name(0)) == (1, str(tmp_path / "a.png"))
    assert np.array_equal(source.labels(0), labels)
    with pytest.raises(DataError, match=r"b\.png: a class of 5; allowed: 0 to 4, as segmentation"):
        LabelledFiles([pair], LabelRules("classes", 5), {}).labels(0)


def test_limit_of_pixels(tmp_path: Path) -> None:
    pair = stored(save(tmp_path / "a.png", grey_image())), stored(tmp_path / "a.png")
    source = LabelledFiles([pair], LabelRules(), {}, max_image_pixels=400)
    for read in (source.image, source.labels):
        with pytest.raises(DataError, match=r"a\.png: 24 x 18 pixels; allowed: 400 in all"):
            read(0)
    with pytest.raises(DataError, match=r"^data\.max_image_pixels is 0; allowed: 1 to "):
        LabelledFiles([pair], LabelRules(), {}, max_image_pixels=0)
