"""Folders of images with label images: a metadata file names both, or they have the same names in two folders."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from training.data.encoded_images import MAX_IMAGE_PIXELS
from training.data.errors import DataError
from training.data.image_folder import find_metadata, image_files, read_metadata
from training.data.label_images import StoredImage
from training.data.label_rules import LabelRules
from training.data.labelled_source import LabelledFiles

IMAGE_FOLDER, LABEL_FOLDER = "images", "labels"

_Pair = tuple[StoredImage, StoredImage]


def has_image_or_label_folder(folder: Path) -> bool:
    """Tell whether a folder holds `images` or `labels`."""
    return any((folder / name).is_dir() for name in (IMAGE_FOLDER, LABEL_FOLDER))


def read_metadata_folder(
    folder: Path, label_column: str, rules: LabelRules, max_image_pixels: int = MAX_IMAGE_PIXELS
) -> LabelledFiles:
    """List a folder whose metadata file names images and label images.

    Args:
        folder (`Path`): The folder; it holds `metadata.jsonl` or `metadata.csv`.
        label_column (`str`): Where a row has the path of the label image. `file_name` has that of the image. Both are
            relative to the folder.
        rules (`LabelRules`): What label maps may hold.
        max_image_pixels (`int`, defaults to 100,000,000): Images of more pixels are refused.

    Returns:
        `LabelledFiles`: one sample a row, and one with a problem for each image file that no row names.

    Raises:
        DataError: If the metadata cannot be parsed or lack a column.
    """
    metadata = find_metadata(folder)
    pairs: list[_Pair] = []
    problems: dict[int, str] = {}
    named = set()
    for place, row in read_metadata(metadata, {label_column: "data.label_column"}):
        image, labels = (row.get(column) for column in ("file_name", label_column))
        problem = None
        for column, path in (("file_name", image), (label_column, labels)):
            if not isinstance(path, str) or not path:
                problem = problem or f"it has no {column!r}"
            elif not (folder / path).is_file():
                problem = problem or f"the file {folder / path} does not exist"
            else:
                named.add(os.path.relpath(folder / path, folder))
        if problem is not None:
            problems[len(pairs)] = problem
            pairs.append((StoredImage("", str(folder / place)),) * 2)
        else:
            pairs.append((_file(folder / str(image)), _file(folder / str(labels))))
    for path in image_files(folder):
        if path not in named:
            problems[len(pairs)] = f"no row of {metadata.name} names it"
            pairs.append((_file(folder / path),) * 2)
    return LabelledFiles(pairs, rules, problems, max_image_pixels)


def read_paired_folder(folder: Path, rules: LabelRules, max_image_pixels: int = MAX_IMAGE_PIXELS) -> LabelledFiles:
    """List a folder with images in its subfolder `images` and their labels, in files of the same stems, in `labels`.

    Args:
        folder (`Path`): The folder.
        rules (`LabelRules`): What label maps may hold.
        max_image_pixels (`int`, defaults to 100,000,000): Images of more pixels are refused.

    Returns:
        `LabelledFiles`: one sample a stem, in order; what has no partner, or more than one, has a problem.

    Raises:
        DataError: If the folder lacks one of the two.
    """
    for name, other in ((IMAGE_FOLDER, LABEL_FOLDER), (LABEL_FOLDER, IMAGE_FOLDER)):
        if not (folder / name).is_dir():
            raise DataError(f"{folder} has a folder {other!r}, but none that is called {name!r}")
    images, labels = (_files_by_stem(folder / name) for name in (IMAGE_FOLDER, LABEL_FOLDER))
    pairs: list[_Pair] = []
    problems: dict[int, str] = {}
    for stem in sorted({*images, *labels}):
        problem = None
        for files, found in ((IMAGE_FOLDER, images[stem]), (LABEL_FOLDER, labels[stem])):
            if len(found) > 1:
                problem = f"{' and '.join(map(str, found))} have the same stem; allowed: one of them"
            elif not found:
                problem = problem or f"it has no partner {folder / files / stem} with a suffix such as .png or .tif"
        if problem is not None:
            problems[len(pairs)] = problem
        of_image, of_labels = images[stem] or labels[stem], labels[stem] or images[stem]
        pairs.append((_file(of_image[0]), _file(of_labels[0])))
    return LabelledFiles(pairs, rules, problems, max_image_pixels)


def _file(path: Path) -> StoredImage:
    return StoredImage(str(path), str(path))


def _files_by_stem(folder: Path) -> defaultdict[str, list[Path]]:
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in image_files(folder):
        found[os.path.splitext(path)[0]].append(folder / path)
    return found
