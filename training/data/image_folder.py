"""A folder of images with `metadata.jsonl` or `metadata.csv`, as `datasets` calls an `imagefolder`.

Other than `datasets`, which drops images that no row names and keeps rows whose file is missing, it names both.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.data.encoded_images import MAX_IMAGE_PIXELS, EncodedImageSource, caption_problem
from training.data.errors import DataError
from training.data.fingerprints import digest, file_stamps
from training.data.image_source import Caption

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga",
    ".tif", ".tiff", ".webp",
))
# fmt: on


class ImageFolderSource(EncodedImageSource):
    """Images of a folder and its subfolders, each with a row of the folder's metadata file.

    Args:
        folder (`str` or `Path`): The folder; it holds `metadata.jsonl` or `metadata.csv`.
        caption_column (`str`, defaults to `"text"`): Where a row has the caption. `file_name` has the image's path.
        max_image_pixels (`int`, defaults to 100,000,000): Pictures of more pixels are refused.

    Attributes:
        captions (`list[Caption]`): One caption a row, or a list of captions.

    Raises:
        DataError: If the metadata are missing, cannot be parsed or lack a column.
    """

    def __init__(
        self, folder: str | Path, caption_column: str = "text", max_image_pixels: int = MAX_IMAGE_PIXELS
    ) -> None:
        self.folder = Path(folder)
        metadata = find_metadata(self.folder)
        self.files: list[str] = []
        captions: list[Caption] = []
        problems: dict[int, str] = {}
        for place, row in read_metadata(metadata, {caption_column: "data.caption_column"}):
            file_name: Any = row.get("file_name")
            caption: Any = row.get(caption_column)
            problem = caption_problem(caption)
            if not isinstance(file_name, str) or not file_name:
                file_name, problem = place, "it has no 'file_name'"
            elif not (self.folder / file_name).is_file():
                problem = f"the file does not exist ({place} names it)"
            if problem is not None:
                problems[len(self.files)] = problem
            self.files.append(file_name)
            captions.append(caption if problem is None else "")
        for file_name in _unnamed_images(self.folder, {os.path.normpath(file) for file in self.files}):
            problems[len(self.files)] = f"it has no caption (no row of {metadata.name} names it)"
            self.files.append(file_name)
            captions.append("")
        super().__init__(captions, problems, max_image_pixels)

    def encoded(self, index: int) -> str:
        """Give the path of an image's file."""
        return str(self.folder / self.files[index])

    def name(self, index: int) -> str:
        """Name a sample by its file."""
        return self.encoded(index)

    def fingerprint(self) -> str:
        """Hash path, size and time of the last change of every file, in order; the folder itself may move."""
        return f"folder {digest(file_stamps(self.files, self.folder))}"


def has_metadata(folder: Path) -> bool:
    """Tell whether a folder holds a metadata file."""
    return any((folder / name).is_file() for name in METADATA_FILES)


def find_metadata(folder: Path) -> Path:
    """Find the metadata file of a folder.

    Args:
        folder (`Path`): The folder.

    Returns:
        `Path`: the file.

    Raises:
        DataError: If there is none, or more than one.
    """
    found = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if not found:
        raise DataError(f"{folder}: no captions; it needs {' or '.join(METADATA_FILES)} with a row for each image")
    if len(found) > 1:
        raise DataError(f"{folder}: both {' and '.join(METADATA_FILES)}; only one is allowed")
    return found[0]


def read_metadata(metadata: Path, columns: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Read the rows of a metadata file.

    Args:
        metadata (`Path`): The file, `.jsonl` or `.csv`.
        columns (`Mapping[str, str]`): What it must have beside `file_name`: columns, with the keys of the `data` block
            that name them.

    Returns:
        `list[tuple[str, dict[str, Any]]]`: each row after its place: file and line.

    Raises:
        DataError: If the file cannot be parsed or lacks a column.
    """
    try:
        with metadata.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_jsonl_rows(file, metadata) if metadata.suffix == ".jsonl" else _csv_rows(file, metadata))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{metadata}: cannot be read ({error})") from error
    present = sorted({str(column) for _, row in rows for column in row})
    for column, role in {"file_name": "paths of the images", **columns}.items():
        if rows and column not in present:
            raise DataError(f"{metadata}: no column {column!r} ({role}); it has: {', '.join(present)}")
    return rows


def _jsonl_rows(file: Any, metadata: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{metadata} line {number}: not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(row, dict):
            raise DataError(f"{metadata} line {number}: a JSON object is needed, not {line.strip()[:80]}")
        yield f"{metadata.name} line {number}", row


def _csv_rows(file: Any, metadata: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    for row in reader:
        if None in row:
            raise DataError(f"{metadata} line {reader.line_num}: more fields than the header has")
        yield f"{metadata.name} line {reader.line_num}", row


def image_files(folder: Path) -> Iterator[str]:
    """List the image files of a folder and its subfolders, hidden ones aside.

    Args:
        folder (`Path`): The folder.

    Yields:
        `str`: paths relative to it, in order.
    """
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield os.path.relpath(os.path.join(parent, name), folder)


def _unnamed_images(folder: Path, named: set[str]) -> list[str]:
    return [file_name for file_name in image_files(folder) if file_name not in named]
