"""How many generated digits a classifier of the real ones recognises as the digit that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image
from sklearn.svm import SVC

from training.data.digits import CANVAS_SIZE, DigitsSource

_SIDE = 8
# Between the pictures of a grid.
_GUTTER = 4
_BACKGROUND = (90, 90, 90)


def features(images: Sequence[Image.Image]) -> np.ndarray:
    """Reduce images to what scikit-learn's digits are: 8x8 grey levels, by averaging squares of pixels.

    Args:
        images (sequence of `PIL.Image.Image`): Of any square size.

    Returns:
        `numpy.ndarray` of shape `(len(images), 64)`, float64, in [0, 1].
    """
    reduced = [image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(image, dtype=np.float64).ravel() / 255 for image in reduced])


@lru_cache(maxsize=1)
def digit_classifier() -> SVC:
    """Train a support-vector classifier on the real training digits, drawn on their canvases and reduced again."""
    source = DigitsSource("train")
    images = [source.image(index) for index in range(len(source))]
    return SVC(kernel="rbf", C=10.0, gamma="scale").fit(features(images), source.labels)


def held_out_accuracy() -> float:
    """Measure the classifier on the real held-out digits: what a perfect model could hope for."""
    source = DigitsSource("validation")
    images = [source.image(index) for index in range(len(source))]
    return float(digit_classifier().score(features(images), source.labels))


def recognised(images: Sequence[Image.Image], labels: Sequence[int]) -> np.ndarray:
    """Say of every image whether the classifier sees the digit that was asked for.

    Args:
        images (sequence of `PIL.Image.Image`): Generated digits.
        labels (sequence of `int`): The digits that were asked for.

    Returns:
        `numpy.ndarray` of shape `(len(images),)`, bool.
    """
    return digit_classifier().predict(features(images)) == np.asarray(labels)


def beside_real_digits(images: Sequence[Image.Image], labels: Sequence[int], columns: int = 10) -> Image.Image:
    """Draw a grid with a row for each digit: generated ones on the left, real training ones on the right.

    Args:
        images (sequence of `PIL.Image.Image`): Generated digits.
        labels (sequence of `int`): The digits that were asked for.
        columns (`int`, defaults to 10): Images of a digit on each side.

    Returns:
        `PIL.Image.Image`: RGB.
    """
    source, cell = DigitsSource("train"), CANVAS_SIZE + _GUTTER
    side_width = columns * cell + CANVAS_SIZE // 2
    grid = Image.new("RGB", (side_width + columns * cell + _GUTTER, 10 * cell + _GUTTER), _BACKGROUND)
    for digit in range(10):
        generated = [image for image, label in zip(images, labels, strict=True) if label == digit][:columns]
        real = [source.image(int(index)) for index in np.flatnonzero(source.labels == digit)[:columns]]
        for side, row in enumerate((generated, real)):
            for column, image in enumerate(row):
                grid.paste(image, (_GUTTER + side * side_width + column * cell, _GUTTER + digit * cell))
    return grid
