"""Labelled images as pages of TIFF files, as of the challenge of ISBI 2012: `train-volume.tif`, `train-labels.tif`."""

from __future__ import annotations

from pathlib import Path

from training.data.encoded_images import MAX_IMAGE_PIXELS, open_encoded, reading_fault
from training.data.errors import DataError
from training.data.label_images import StoredImage
from training.data.label_rules import LabelRules
from training.data.labelled_source import LabelledFiles
from training.data.splits import SPLITS

_KINDS = ("volume", "labels")
_SUFFIXES = (".tif", ".tiff")


def stacked_splits(folder: Path) -> list[str]:
    """Tell which splits a folder holds a stack of: images, labels or both.

    Args:
        folder (`Path`): The folder.

    Returns:
        `list[str]`: some of `"train"` and `"validation"`. Stacks of other names, as `test-volume.tif`, do not count.
    """
    return [split for split in SPLITS if any(_stacks(folder, split, kind) for kind in _KINDS)]


def read_stacks(
    folder: Path, split: str, rules: LabelRules, max_image_pixels: int = MAX_IMAGE_PIXELS
) -> LabelledFiles:
    """List the pages of a split: image NAME-volume.tif and labels NAME-labels.tif, page by page.

    Args:
        folder (`Path`): The folder.
        split (`str`): NAME.
        rules (`LabelRules`): What label maps may hold.
        max_image_pixels (`int`, defaults to 100,000,000): Pages of more pixels are refused.

    Returns:
        `LabelledFiles`: one sample a page.

    Raises:
        DataError: If one of the two files is missing or there are two of it, their pages cannot be counted, or one
            has more pages than the other.
    """
    volume, labels = (_only_stack(folder, split, kind) for kind in _KINDS)
    num_images, num_labels = (_num_pages(path, max_image_pixels) for path in (volume, labels))
    if num_images != num_labels:
        raise DataError(f"{volume} has {num_images} pages, and {labels} has {num_labels}; allowed: the same number")
    pairs = [(_page(volume, number), _page(labels, number)) for number in range(num_images)]
    return LabelledFiles(pairs, rules, {}, max_image_pixels)


def _stacks(folder: Path, split: str, kind: str) -> list[Path]:
    files = [folder / f"{split}-{kind}{suffix}" for suffix in _SUFFIXES]
    return [path for path in files if path.is_file()]


def _only_stack(folder: Path, split: str, kind: str) -> Path:
    found = _stacks(folder, split, kind)
    if not found:
        other = next(path for name in _KINDS for path in _stacks(folder, split, name))
        raise DataError(f"{other}: there is no {split}-{kind}.tif beside it")
    if len(found) > 1:
        raise DataError(f"{folder}: both {found[0].name} and {found[1].name}; only one is allowed")
    return found[0]


def _num_pages(path: Path, max_image_pixels: int) -> int:
    try:
        with open_encoded(str(path), max_image_pixels) as opened:
            if opened.format != "TIFF":
                raise DataError(f"it is a {opened.format} file; allowed: TIFF")
            return int(getattr(opened, "n_frames", 1))
    except Exception as error:  # Damaged directories of pages raise anything.
        raise DataError(f"{path}: {reading_fault(error)}") from error


def _page(path: Path, number: int) -> StoredImage:
    return StoredImage(str(path), f"{path} page {number}", number)
