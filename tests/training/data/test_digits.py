"""The digits: splits, labels, captions and how they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from training.data.digits import DigitsSource
from training.data.errors import DataError


def test_the_first_1438_train_and_the_rest_are_held_out() -> None:
    train, held_out = DigitsSource("train"), DigitsSource("validation")
    assert (len(train), len(held_out)) == (1438, 359)
    assert np.array_equal(np.concatenate([train.labels, held_out.labels]), load_digits().target)
    assert np.array_equal(np.concatenate([train.pixels, held_out.pixels]), load_digits().images)


def test_captions_tell_the_labels() -> None:
    source = DigitsSource("train")
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert source.captions == [f"a handwritten {words[label]}" for label in source.labels]


def test_pictures_are_white_on_black_and_fill_the_canvas() -> None:
    source = DigitsSource("validation")
    for index in range(0, len(source), 40):
        picture = source.image(index)
        assert (picture.size, picture.mode) == ((32, 32), "RGB")
        levels = np.asarray(picture, dtype=np.float64)
        assert (levels[..., 0] == levels[..., 1]).all()
        assert (levels[..., 0] == levels[..., 2]).all()
        # Each of the 8x8 pixels covers 4x4 of the canvas, ink 16 is white.
        blocks = levels[..., 0].reshape(8, 4, 8, 4).mean(axis=(1, 3)) / 255 * 16
        assert abs(blocks - source.pixels[index]).mean() < 1
        assert levels.max() > 200


def test_a_classifier_of_the_drawn_digits_knows_the_held_out_ones() -> None:
    def features(source: DigitsSource) -> np.ndarray:
        return np.stack([np.asarray(source.image(i).convert("L").reduce(4)).ravel() / 16 for i in range(len(source))])

    train, held_out = DigitsSource("train"), DigitsSource("validation")
    classifier = SVC(gamma=0.001).fit(features(train), train.labels)
    assert classifier.score(features(held_out), held_out.labels) > 0.95


def test_names_tell_split_and_number() -> None:
    assert DigitsSource("train").name(3) == "digits, train image 3"


def test_unknown_split() -> None:
    with pytest.raises(DataError, match="no split 'test'; allowed: train, validation"):
        DigitsSource("test")
