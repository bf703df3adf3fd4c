"""The judge of digits knows real ones, and the grid shows what was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from training.data.digits import CANVAS_SIZE, DigitsSource
from training.evaluation.digit_recognition import beside_real_digits, features, held_out_accuracy, recognised


def test_features_are_the_grey_levels_of_the_real_digits():
    source = DigitsSource("validation")
    found = features([source.image(index) for index in range(50)])
    assert found.shape == (50, 64)
    assert 0 <= found.min() <= found.max() <= 1
    assert np.abs(found - source.pixels[:50].reshape(50, 64) / 16).mean() < 0.05


def test_features_do_not_depend_on_size_or_colour_mode():
    image = Image.fromarray(np.kron(np.arange(64).reshape(8, 8) * 4, np.ones((4, 4))).astype(np.uint8))
    expected = np.arange(64) * 4 / 255
    for version in (image, image.convert("RGB"), image.resize((64, 64), Image.Resampling.NEAREST)):
        assert np.allclose(features([version])[0], expected, atol=1e-6)


def test_the_judge_knows_digits_that_it_has_not_seen():
    assert held_out_accuracy() > 0.95


def test_what_was_asked_for_is_compared():
    source = DigitsSource("validation")
    images, labels = [source.image(index) for index in range(100)], source.labels[:100]
    right = recognised(images, labels.tolist())
    assert (right.shape, right.dtype) == ((100,), np.bool_)
    assert right.mean() > 0.95
    assert recognised(images, ((labels + 1) % 10).tolist()).mean() < 0.05
    assert recognised([Image.new("RGB", (32, 32))] * 10, list(range(10))).sum() == 1


def test_the_grid_has_a_row_for_each_digit():
    colours = {7: "red", 3: "blue"}
    labels = [7, 3, 7]
    images = [Image.new("RGB", (CANVAS_SIZE, CANVAS_SIZE), colours[label]) for label in labels]
    grid = beside_real_digits(images, labels, columns=2)
    cell = grid.height // 10
    assert cell > CANVAS_SIZE, "pictures are told apart"
    middle = [cell // 2 + row * cell for row in range(10)]
    assert [grid.getpixel((cell // 2 + column * cell, middle[7])) for column in (0, 1)] == [(255, 0, 0)] * 2
    assert grid.getpixel((cell // 2, middle[3])) == (0, 0, 255)
    assert grid.getpixel((cell // 2, middle[0])) == grid.getpixel((cell // 2 + cell, middle[3])) == (90, 90, 90)
    source = DigitsSource("train")
    right_half = np.asarray(grid.crop((grid.width // 2, 0, grid.width, grid.height)))
    for digit in range(10):
        first = np.asarray(source.image(source.labels.tolist().index(digit)))
        windows = np.lib.stride_tricks.sliding_window_view(right_half, first.shape)
        assert (windows == first).all(axis=(-3, -2, -1)).any()


def test_images_and_labels_go_together():
    with pytest.raises(ValueError, match="zip"):
        beside_real_digits([Image.new("RGB", (32, 32))], [1, 2])
