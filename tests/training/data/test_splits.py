"""Which images are held out, and which split is trained on."""

from __future__ import annotations

import pytest

from training.data.errors import DataError
from training.data.splits import held_out_indices, name_of_train_split


def test_the_held_out_share_is_rounded_up_and_drawn_by_seed() -> None:
    assert held_out_indices(10, 0.0, 0) == set()
    held_out = held_out_indices(10, 0.25, 0)
    assert len(held_out) == 3
    assert held_out <= set(range(10))
    assert held_out_indices(10, 0.25, 0) == held_out
    assert len({frozenset(held_out_indices(100, 0.1, seed)) for seed in range(5)}) == 5


def test_the_split_that_is_trained_on() -> None:
    assert name_of_train_split({"train": 1, "test": 2}, "mine") == "train"
    assert name_of_train_split(["everything"], "mine") == "everything"
    with pytest.raises(DataError, match=r"^data\.dataset 'mine' has no split 'train'; it has: one, two$"):
        name_of_train_split(["one", "two"], "mine")


def test_nobody_trains_on_what_is_for_validation() -> None:
    with pytest.raises(DataError, match=r"^data\.dataset 'mine' has no split 'train'; it has: validation$"):
        name_of_train_split(["validation"], "mine")
