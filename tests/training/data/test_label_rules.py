"""What label maps may hold, and which classes are in them."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.errors import DataError
from training.data.label_rules import LabelRules


def labels_of(*numbers: int) -> np.ndarray:
    return np.array([numbers], dtype=np.int32)


def test_instances_may_have_any_numbers() -> None:
    labels = labels_of(0, 255, 70_000)
    assert LabelRules().apply(labels) is labels


@pytest.mark.parametrize(("numbers", "classes"), [((0, 255), (0, 1)), ((255, 255), (1, 1)), ((0, 0), (0, 0))])
def test_a_black_and_white_mask_has_two_classes(numbers: tuple[int, ...], classes: tuple[int, ...]) -> None:
    applied = LabelRules("classes").apply(labels_of(*numbers))
    assert np.array_equal(applied, labels_of(*classes))
    assert applied.dtype == np.int32


def test_classes_stay_as_they_are() -> None:
    assert np.array_equal(LabelRules("classes").apply(labels_of(0, 1)), labels_of(0, 1))
    assert np.array_equal(LabelRules("classes", 300).apply(labels_of(0, 255)), labels_of(0, 255))


def test_a_class_that_is_too_large() -> None:
    with pytest.raises(DataError, match=r"^a class of 255; allowed: 0 to 2, as segmentation\.unet\.num_classes is 3$"):
        LabelRules("classes", 3).apply(labels_of(0, 255))
    with pytest.raises(DataError, match=r"^a class of 255; allowed: 0 to 1, .* is 2, or a mask of 0 and 255$"):
        LabelRules("classes").apply(labels_of(0, 128, 255))


@pytest.mark.parametrize(
    ("numbers", "classes"),
    [((0, 0), {0}), ((7, 7), {1}), ((0, 7), {0, 1}), ((7, 9), {0, 1})],
)
def test_classes_of_instances(numbers: tuple[int, ...], classes: set[int]) -> None:
    """Two instances without background between them have a border there."""
    assert LabelRules().classes_in(labels_of(*numbers)) == classes


def test_classes_of_classes() -> None:
    assert LabelRules("classes", 9).classes_in(labels_of(2, 5, 5)) == {2, 5}


def test_what_is_no_rule() -> None:
    with pytest.raises(DataError, match=r"^data\.label_type is 'masks'; allowed: 'instances', 'classes'$"):
        LabelRules("masks")
    with pytest.raises(DataError, match=r"^segmentation\.unet\.num_classes is 3; .* instances have two classes: back"):
        LabelRules("instances", 3)
    with pytest.raises(DataError, match=r"^segmentation\.unet\.num_classes is 1; allowed: at least 2$"):
        LabelRules("classes", 1)
