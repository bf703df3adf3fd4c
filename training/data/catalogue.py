"""The data sets that a run can name in `data.dataset`."""

from __future__ import annotations

from training.data.captioned_images import CaptionedImages
from training.data.digits import DigitsSource
from training.data.errors import DataError
from training.data.image_source import ImageSource


def load_source(dataset: str, split: str = "train") -> ImageSource:
    """Load the images and captions of a split."""
    if dataset == "digits":
        return DigitsSource(split)
    raise DataError(f"data.dataset: unknown data set {dataset!r}")


def load_captioned_images(
    split: str,
    *,
    dataset: str,
    resolution: int,
    center_crop: bool = True,
    random_flip: bool = False,
    seed: int = 0,
) -> CaptionedImages:
    """Load a split as the samples that training reads."""
    source = load_source(dataset, split)
    return CaptionedImages(source, resolution, center_crop=center_crop, random_flip=random_flip, seed=seed)
