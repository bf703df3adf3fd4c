"""The labelled data sets that a run can name in `data.dataset`, and what of them is for training and validation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from training.data.cells import NUM_VALIDATION_CELLS, CellsSource
from training.data.encoded_images import MAX_IMAGE_PIXELS, check_pixel_limit
from training.data.errors import DataError
from training.data.image_folder import has_metadata
from training.data.label_rules import LabelRules
from training.data.label_stacks import read_stacks, stacked_splits
from training.data.labelled_checks import ImageCheck, fit_image, usable_labelled
from training.data.labelled_folder import has_image_or_label_folder, read_metadata_folder, read_paired_folder
from training.data.labelled_rows import LabelledRows
from training.data.labelled_source import EncodedLabelledSource, LabelledSource, LabelledSubset
from training.data.sample_checks import check_choice
from training.data.splits import (
    SPLITS,
    check_split,
    held_out_indices,
    name_of_train_split,
    refuse_for_folder,
    refuse_fraction,
    refuse_options,
)
from training.data.stored_datasets import is_bare, load_tables

LABELLED_BUILT_IN = "cells"
_WITHOUT_LABELS = ("digits", "shapes", "emoji")
_ALLOWED = (
    "'cells', a folder (with metadata.jsonl or metadata.csv, with images/ and labels/, with train-volume.tif and "
    "train-labels.tif, or with tables), or a data set on the Hub"
)

LabelledSplits = dict[str, Callable[[], EncodedLabelledSource]]
"""How to read each split of a data set, by its name."""


def load_labelled_source(
    split: str,
    *,
    dataset: str,
    label_type: str = "instances",
    num_classes: int = 2,
    image_column: str = "image",
    label_column: str = "label",
    on_bad_sample: str = "error",
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    num_samples: int = 30,
    validation_fraction: float = 0.0,
    dataset_revision: str | None = None,
    dataset_config_name: str | None = None,
    seed: int = 0,
    check_image: ImageCheck | None = None,
) -> LabelledSource:
    """Load the images and labels of a split; all of them are read once, and so checked.

    The keyword arguments are keys of a run's `data` block but for `num_classes` (`segmentation.unet.num_classes`), the
    seed of the run and the check.

    Args:
        split (`str`):
            `"train"`, or `"validation"`: images that training never sees. These are the split of that name if the data
            set has one, else `validation_fraction` of its images, and none (length 0) if that is 0.
        dataset (`str`): `"cells"`, path of a folder (see `find_labelled_splits`) or name of a data set on the Hub.
        label_type (`str`, defaults to `"instances"`): `"instances"`: 0 is background and every other number an object.
            `"classes"`: numbers are classes in [0, num_classes); a mask of 0 and 255 has classes 0 and 1.
        num_classes (`int`, defaults to 2): How many classes the network tells apart; 2 for instances.
        image_column (`str`, defaults to `"image"`): Column of the images (`file_name` in a metadata file).
        label_column (`str`, defaults to `"label"`): Column of the label images.
        on_bad_sample (`str`, defaults to `"error"`): `"error"`, or `"skip"` to leave out what cannot be read or used,
            with one warning.
        max_image_pixels (`int`, defaults to 100,000,000): Images of more pixels are bad samples.
        num_samples (`int`, defaults to 30): Number of training images of `cells`.
        validation_fraction (`float`, defaults to 0): Share of the images to hold out, in [0, 1).
        dataset_revision (`str`, *optional*): Branch, tag or commit on the Hub.
        dataset_config_name (`str`, *optional*): Configuration (subset) of a data set that has several.
        seed (`int`, defaults to 0): The seed of the run; it draws the micrographs of `cells` and the held-out images.
        check_image (callable, *optional*): Raises `ValueError` for an image that the network cannot take.

    Returns:
        `LabelledSource`: images and labels.

    Raises:
        DataError: If the data set cannot be found or read, lacks a column, has bad samples, is empty or has nothing to
            learn in it, or an argument is out of range.
    """
    check_split(split, validation_fraction)
    check_choice(on_bad_sample)
    check_pixel_limit(max_image_pixels)
    rules = LabelRules(label_type, num_classes)
    if dataset in _WITHOUT_LABELS:
        raise DataError(f"data.dataset {dataset!r} has no labels; allowed: {_ALLOWED}")
    if dataset == LABELLED_BUILT_IN:
        refuse_options(dataset, validation_fraction, dataset_revision, dataset_config_name)
        return _load_cells(split, num_samples, seed, rules, check_image)
    splits = find_labelled_splits(
        dataset,
        rules,
        image_column=image_column,
        label_column=label_column,
        max_image_pixels=max_image_pixels,
        dataset_revision=dataset_revision,
        dataset_config_name=dataset_config_name,
    )
    if "validation" in splits:
        refuse_fraction(dataset, validation_fraction)
    has_split = split == "validation" and "validation" in splits
    source = splits["validation" if has_split else name_of_train_split(splits, dataset)]()
    held_out = held_out_indices(len(source), validation_fraction, seed)
    indices = [i for i in range(len(source)) if has_split or (i in held_out) == (split == "validation")]
    usable, classes = usable_labelled(source, indices, check_image, on_bad_sample, dataset)
    if split == "train":
        _check_worth(dataset, usable, classes)
    return LabelledSubset(source, usable)


def find_labelled_splits(
    dataset: str,
    rules: LabelRules,
    *,
    image_column: str = "image",
    label_column: str = "label",
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    dataset_revision: str | None = None,
    dataset_config_name: str | None = None,
) -> LabelledSplits:
    """Find the splits of a data set that is no built-in one.

    In a folder, the first of these that is there counts: a metadata file that names images and label images; the
    subfolders `images` and `labels` (either also in subfolders `train` and `validation`); the stacks
    `train-volume.tif` and `train-labels.tif`, and those of `validation`; anything that `datasets` reads, for example
    Parquet files. What is no folder is looked for on the Hub.

    Args:
        dataset (`str`): Path of a folder, or name on the Hub.
        rules (`LabelRules`): What label maps may hold.
        image_column (`str`, defaults to `"image"`): Column of the images (`file_name` in a metadata file).
        label_column (`str`, defaults to `"label"`): Column of the label images.
        max_image_pixels (`int`, defaults to 100,000,000): Images of more pixels are refused.
        dataset_revision (`str`, *optional*): Branch, tag or commit on the Hub.
        dataset_config_name (`str`, *optional*): Configuration (subset) of a data set that has several.

    Returns:
        `dict[str, Callable[[], EncodedLabelledSource]]`: how to read each split.

    Raises:
        DataError: If there is no such folder or data set, or it cannot be read.
    """
    folder = Path(dataset).expanduser()
    if folder.is_dir():
        refuse_for_folder(dataset, dataset_revision=dataset_revision)
        splits = _splits_of_folder(folder, label_column, rules, max_image_pixels)
        if splits:
            refuse_for_folder(dataset, dataset_config_name=dataset_config_name)
            return splits
        if is_bare(folder):
            raise DataError(f"data.dataset: {dataset!r} has images, but no labels; allowed: {_ALLOWED}")
    tables = load_tables(dataset, dataset_revision, dataset_config_name, _ALLOWED)
    columns = image_column, label_column
    return {
        split: partial(LabelledRows, rows, f"{dataset} ({split})", rules, *columns, max_image_pixels)
        for split, rows in tables.items()
    }


def _splits_of_folder(folder: Path, label_column: str, rules: LabelRules, max_image_pixels: int) -> LabelledSplits:
    """Find the splits of a folder of files; none if it is something else."""
    with_metadata = _split_folders(folder, has_metadata)
    if with_metadata:
        return {
            split: partial(read_metadata_folder, path, label_column, rules, max_image_pixels)
            for split, path in with_metadata.items()
        }
    paired = _split_folders(folder, has_image_or_label_folder)
    if paired:
        return {split: partial(read_paired_folder, path, rules, max_image_pixels) for split, path in paired.items()}
    return {split: partial(read_stacks, folder, split, rules, max_image_pixels) for split in stacked_splits(folder)}


def _split_folders(folder: Path, holds: Callable[[Path], bool]) -> dict[str, Path]:
    """Tell which folders hold images with labels: the folder itself, or its subfolders of the splits' names."""
    within = {split: folder / split for split in SPLITS if holds(folder / split)}
    if not holds(folder):
        return within
    if within:
        raise DataError(f"{folder} holds images itself and in {', '.join(within)}; allowed: one of both")
    return {"train": folder}


def _load_cells(
    split: str, num_samples: int, seed: int, rules: LabelRules, check_image: ImageCheck | None
) -> CellsSource:
    if rules.label_type != "instances":
        raise DataError(f"data.label_type is {rules.label_type!r}; allowed for {LABELLED_BUILT_IN}: 'instances'")
    source = CellsSource(split, num_samples if split == "train" else NUM_VALIDATION_CELLS, seed)
    fit_image(source.image(0), source.name(0), check_image)
    return source


def _check_worth(dataset: str, usable: list[int], classes: set[int]) -> None:
    if not usable:
        raise DataError(f"data.dataset {dataset!r} is empty: it has no usable image with labels to train on")
    if len(classes) < 2:
        raise DataError(
            f"data.dataset {dataset!r}: nothing to learn, as every pixel of all training labels is of class "
            f"{', '.join(map(str, classes))}; allowed: labels of two classes or more"
        )
