"""The 1,797 real handwritten digits of scikit-learn, 8x8 pixels each, on 32x32 canvases with captions."""

from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from training.data.errors import DataError

CANVAS_SIZE = 32
# To be raised when the digits are drawn in another way: latents of older ones are then refused.
DRAWING_VERSION = 1
NUM_TRAIN_DIGITS = 1438
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SPLITS = {"train": slice(None, NUM_TRAIN_DIGITS), "validation": slice(NUM_TRAIN_DIGITS, None)}


def caption_of_digit(label: int) -> str:
    """Write the caption of a digit, for example `"a handwritten seven"`."""
    return f"a handwritten {DIGIT_NAMES[label]}"


def enlarge_digit(pixels: np.ndarray) -> Image.Image:
    """Draw a digit of 8x8 grey levels so that it fills a canvas of 32x32 pixels, white on black.

    Args:
        pixels (`numpy.ndarray` of shape `(8, 8)`): Ink, from 0 to 16 (as scikit-learn has it).

    Returns:
        `PIL.Image.Image`: 32x32, RGB.
    """
    grey = Image.fromarray(np.asarray(pixels, dtype=np.float32) * (255 / 16))
    smooth = np.asarray(grey.resize((CANVAS_SIZE, CANVAS_SIZE), Image.Resampling.BICUBIC))
    return Image.fromarray(smooth.clip(0, 255).round().astype(np.uint8)).convert("RGB")


class DigitsSource:
    """Handwritten digits: the first 1,438 are for training, the other 359 are held out.

    Args:
        split (`str`, defaults to `"train"`): `"train"` or `"validation"`.

    Attributes:
        labels (`numpy.ndarray` of shape `(len(self),)`, int64): Which digit each image shows, 0 to 9.
        captions (`list[str]`): `"a handwritten zero"` to `"a handwritten nine"`.

    Raises:
        DataError: If there is no such split.
    """

    def __init__(self, split: str = "train") -> None:
        if split not in _SPLITS:
            raise DataError(f"digits has no split {split!r}; allowed: {', '.join(_SPLITS)}")
        digits = load_digits()
        self.split = split
        self.pixels: np.ndarray = digits.images[_SPLITS[split]]
        self.labels: np.ndarray = digits.target[_SPLITS[split]].astype(np.int64)
        self.captions = [caption_of_digit(label) for label in self.labels]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Draw a digit on its 32x32 canvas."""
        return enlarge_digit(self.pixels[index])

    def image_size(self, index: int) -> tuple[int, int]:
        """Give the size of the canvas."""
        return CANVAS_SIZE, CANVAS_SIZE

    def name(self, index: int) -> str:
        """Name a digit by its split and number."""
        return f"digits, {self.split} image {index}"

    def fingerprint(self) -> str:
        """Give the split and the version of the drawing."""
        return f"digits, split {self.split}, drawing {DRAWING_VERSION}"
