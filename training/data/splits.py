"""Which images of a data set are for training and which for validation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from training.data.errors import DataError
from training.engine.random_streams import sample_rng

SPLITS = ("train", "validation")


def check_split(split: str, validation_fraction: float) -> None:
    """Refuse an unknown split and a share that cannot be held out.

    Args:
        split (`str`): `"train"` or `"validation"`.
        validation_fraction (`float`): Share of the images to hold out, in [0, 1).

    Raises:
        DataError: If one is something else.
    """
    if split not in SPLITS:
        raise DataError(f"no split {split!r}; allowed: {', '.join(SPLITS)}")
    if not 0 <= validation_fraction < 1:
        raise DataError(f"data.validation_fraction is {validation_fraction}; allowed: at least 0 and below 1")


def held_out_indices(num_images: int, fraction: float, seed: int) -> set[int]:
    """Draw which images of a data set without a validation split are held out.

    Args:
        num_images (`int`): How many there are, bad ones counted.
        fraction (`float`): Share to hold out, in [0, 1); rounded up.
        seed (`int`): The seed of the run.

    Returns:
        `set[int]`: their indices.
    """
    if not fraction:
        return set()
    order = sample_rng(seed, "held-out images", 0).permutation(num_images)
    return set(order[: int(np.ceil(fraction * num_images))].tolist())


def name_of_train_split(splits: Iterable[str], dataset: str) -> str:
    """Tell which split training reads: `"train"`, or the only one if that is not for validation.

    Args:
        splits (iterable of `str`): Names of the splits.
        dataset (`str`): Name of the data set, for the message.

    Returns:
        `str`: the name of the split.

    Raises:
        DataError: If it cannot be told.
    """
    names = list(splits)
    if "train" in names:
        return "train"
    if len(names) != 1 or names == ["validation"]:
        raise DataError(f"data.dataset {dataset!r} has no split 'train'; it has: {', '.join(names)}")
    return names[0]


def refuse_fraction(dataset: str, fraction: float) -> None:
    """Refuse to hold out a share of a data set that has held-out images.

    Args:
        dataset (`str`): Name of the data set, for the message.
        fraction (`float`): Share to hold out.

    Raises:
        DataError: If it is not 0.
    """
    if fraction:
        raise DataError(f"data.validation_fraction is {fraction}; allowed for {dataset!r}: 0 (it has held-out images)")


def refuse_for_folder(dataset: str, **options: str | None) -> None:
    """Refuse what only a data set on the Hub has.

    Args:
        dataset (`str`): Path of the folder.
        options (`str`, *optional*): Keys of the `data` block that must not be given.

    Raises:
        DataError: If one is.
    """
    for key, value in options.items():
        if value is not None:
            raise DataError(f"data.{key}: {value!r} given, but {dataset!r} is a folder")


def refuse_options(
    dataset: str, validation_fraction: float, dataset_revision: str | None, dataset_config_name: str | None
) -> None:
    """Refuse what a built-in data set has no use for.

    Args:
        dataset (`str`): Name of the data set.
        validation_fraction (`float`): Share of the images to hold out.
        dataset_revision (`str`, *optional*): Branch, tag or commit on the Hub.
        dataset_config_name (`str`, *optional*): Configuration (subset) on the Hub.

    Raises:
        DataError: If one is given.
    """
    refuse_fraction(dataset, validation_fraction)
    for key, value in (("dataset_revision", dataset_revision), ("dataset_config_name", dataset_config_name)):
        if value is not None:
            raise DataError(f"data.{key} is {value!r}; allowed for {dataset}: null")
