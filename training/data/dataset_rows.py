"""Images and captions in the rows of a Hugging Face data set: from the Hub, or from a folder that `datasets` reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import pyarrow.compute

from training.data.encoded_images import MAX_IMAGE_PIXELS, EncodedImageSource, caption_problem
from training.data.errors import DataError
from training.data.fingerprints import digest, file_stamps
from training.data.image_source import Caption


class DatasetRowsSource(EncodedImageSource):
    """Rows with an image column and a caption column. The images stay encoded until they are read.

    Args:
        rows (`datasets.Dataset`): The rows.
        label (`str`): What messages call the data set.
        image_column (`str`, defaults to `"image"`): Images, or the bytes or paths of image files.
        caption_column (`str`, defaults to `"text"`): Text, or lists of texts to choose from.
        max_image_pixels (`int`, defaults to 100,000,000): Pictures of more pixels are refused.

    Attributes:
        captions (`list[Caption]`): One caption a row, or a list of captions.

    Raises:
        DataError: If a column is missing or holds something else.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        label: str,
        image_column: str = "image",
        caption_column: str = "text",
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        self.label = label
        self._identity = _identity(rows, image_column)
        check_columns(rows, label, {"image_column": image_column, "caption_column": caption_column})
        self.images = encoded_column(rows, image_column, label)
        captions: list[Caption] = []
        problems: dict[int, str] = {}
        for index, caption in enumerate(rows.select_columns(caption_column)[:][caption_column]):
            problem = caption_problem(caption)
            if problem is not None:
                problems[index] = problem
            captions.append(caption if problem is None else "")
        super().__init__(captions, problems, max_image_pixels)

    def encoded(self, index: int) -> str | bytes:
        """Give the bytes of an image, or its path if the rows hold paths."""
        held = self._held(index)
        encoded = held["bytes"] or held["path"]
        if not encoded:
            raise DataError("it has no image")
        return encoded

    def name(self, index: int) -> str:
        """Name a sample by its row, counted from 0, and its file if the row tells."""
        path = self._held(index)["path"]
        return f"{self.label} row {index}" + (f" ({path})" if path else "")

    def fingerprint(self) -> str:
        """Give the rows' own fingerprint with the image column, and the state of files that the rows only name."""
        return f"rows {self._identity}, files {digest(file_stamps(_named_files(self.images)))}"

    def _held(self, index: int) -> dict[str, Any]:
        return self.images[index]["image"] or {"bytes": None, "path": None}


def check_columns(rows: datasets.Dataset, label: str, columns: Mapping[str, str]) -> None:
    """Refuse rows that lack a column.

    Args:
        rows (`datasets.Dataset`): The rows.
        label (`str`): What messages call the data set.
        columns (`Mapping[str, str]`): The columns, by the keys of the `data` block that name them.

    Raises:
        DataError: If one is missing.
    """
    for option, column in columns.items():
        if column not in rows.column_names:
            present = ", ".join(rows.column_names)
            raise DataError(f"{label}: no column {column!r} (data.{option}); it has: {present}")


def encoded_column(rows: datasets.Dataset, column: str, label: str, option: str = "image_column") -> datasets.Dataset:
    """Give a column of images alone, still encoded.

    Args:
        rows (`datasets.Dataset`): The rows.
        column (`str`): The column: images, or the bytes or paths of image files.
        label (`str`): What messages call the data set.
        option (`str`, defaults to `"image_column"`): The key of the `data` block that names the column.

    Returns:
        `datasets.Dataset`: rows whose column `"image"` holds `bytes` and `path`, or nothing.

    Raises:
        DataError: If the column holds something else.
    """
    kind = rows.features[column]
    images = rows.select_columns(column).with_format(None)
    try:
        images = images.cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(f"{label}: column {column!r} (data.{option}) holds {kind}, not images") from error
    return images if column == "image" else images.rename_column(column, "image")


def _identity(rows: datasets.Dataset, image_column: str) -> str:
    """Name rows by the fingerprint that `datasets` gives them, which is the same in every process.

    For some rows it is a hash of the code that made them, not of what this code read; then the sizes of the Arrow
    files tell more. Their times do not count, as `datasets` may write them again into its cache.
    """
    sizes = [os.path.getsize(file["filename"]) for file in rows.cache_files]
    return digest([rows._fingerprint, image_column, len(rows), *sizes])


def _named_files(images: datasets.Dataset) -> Iterator[str]:
    """List the files of rows that hold a path and no bytes, in the order of the table, without reading any bytes."""
    for chunk in images.data.column("image").chunks:
        sizes = pyarrow.compute.binary_length(chunk.field("bytes")).to_pylist()
        for path, size in zip(chunk.field("path").to_pylist(), sizes, strict=True):
            if path and not size:
                yield path
