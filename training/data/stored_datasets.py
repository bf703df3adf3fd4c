"""Finding the splits of a data set that lies in a folder or on the Hub, whatever its form."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
from datasets.exceptions import DatasetsError

from training.data.dataset_rows import DatasetRowsSource
from training.data.encoded_images import MAX_IMAGE_PIXELS, EncodedImageSource
from training.data.errors import DataError
from training.data.image_folder import IMAGE_SUFFIXES, ImageFolderSource, has_metadata
from training.data.splits import refuse_for_folder

TABLE_SUFFIXES = frozenset((".parquet", ".arrow", ".tar", ".zip"))

_ALLOWED = "'digits', 'shapes', 'emoji', a folder with captioned images, or a data set on the Hub"

Splits = dict[str, Callable[[], EncodedImageSource]]
"""How to read each split of a data set, by its name."""


def find_splits(
    dataset: str,
    *,
    image_column: str = "image",
    caption_column: str = "text",
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    dataset_revision: str | None = None,
    dataset_config_name: str | None = None,
) -> Splits:
    """Find a data set's splits.

    A folder may be an `imagefolder` (`metadata.jsonl` or `metadata.csv` in it, or in its subfolders `train` and
    `validation`), what `save_to_disk` of `datasets` wrote, or anything else that `datasets.load_dataset` reads, for
    example Parquet files. What is no folder is looked for on the Hub.

    Args:
        dataset (`str`): Path of a folder, or name on the Hub.
        image_column (`str`, defaults to `"image"`): Column of the images (`file_name` in an `imagefolder`).
        caption_column (`str`, defaults to `"text"`): Column of the captions.
        max_image_pixels (`int`, defaults to 100,000,000): Pictures of more pixels are refused.
        dataset_revision (`str`, *optional*): Branch, tag or commit on the Hub.
        dataset_config_name (`str`, *optional*): Configuration (subset) of a data set that has several.

    Returns:
        `dict[str, Callable[[], EncodedImageSource]]`: how to read each split.

    Raises:
        DataError: If there is no such folder or data set, or it cannot be read.
    """
    folder = Path(dataset).expanduser()
    if folder.is_dir():
        refuse_for_folder(dataset, dataset_revision=dataset_revision)
        image_folders = _image_folders(folder)
        if image_folders:
            refuse_for_folder(dataset, dataset_config_name=dataset_config_name)
            return {
                split: partial(ImageFolderSource, path, caption_column, max_image_pixels)
                for split, path in image_folders.items()
            }
    tables = load_tables(dataset, dataset_revision, dataset_config_name, _ALLOWED)
    return {
        split: partial(DatasetRowsSource, rows, f"{dataset} ({split})", image_column, caption_column, max_image_pixels)
        for split, rows in tables.items()
    }


def _image_folders(folder: Path) -> dict[str, Path]:
    """Tell which folder holds which split of an `imagefolder`; empty if the folder is something else."""
    if has_metadata(folder):
        return {"train": folder}
    splits = {split: folder / split for split in ("train", "validation") if has_metadata(folder / split)}
    if splits:
        return splits
    return {"train": folder} if is_bare(folder) else {}  # Whose reading tells that there are no captions.


def is_bare(folder: Path) -> bool:
    """Tell whether a folder holds, at any depth, image files and no tables or archives of a data set."""
    suffixes = {os.path.splitext(name)[1].lower() for _, _, names in os.walk(folder) for name in names}
    return bool(suffixes & IMAGE_SUFFIXES) and not suffixes & TABLE_SUFFIXES


def load_tables(
    dataset: str, revision: str | None, config_name: str | None, allowed: str
) -> dict[str, datasets.Dataset]:
    """Load what `datasets` reads: a folder, or a data set on the Hub.

    Args:
        dataset (`str`): Path of a folder, or name on the Hub.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        config_name (`str`, *optional*): Configuration (subset) of a data set that has several.
        allowed (`str`): What `data.dataset` may be, for the message.

    Returns:
        `dict[str, datasets.Dataset]`: the splits by name; what has none is `"train"`.

    Raises:
        DataError: If there is no such folder or data set, or it cannot be read.
    """
    folder = Path(dataset).expanduser()
    if not folder.is_dir() and (dataset.startswith((".", "/", "~")) or dataset.count("/") > 1 or folder.exists()):
        raise DataError(f"data.dataset: {dataset!r} is not a folder")
    try:
        if any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")):
            loaded = datasets.load_from_disk(str(folder))
        else:
            name = str(folder) if folder.is_dir() else dataset
            loaded = datasets.load_dataset(name, config_name, revision=revision)
    except (DatasetsError, OSError, ValueError) as error:
        told = " ".join(str(error).split())[:300]
        raise DataError(f"data.dataset: {dataset!r} cannot be loaded ({told}); allowed: {allowed}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
