"""Images and label images in the rows of a Hugging Face data set: from the Hub, or from a folder of tables."""

from __future__ import annotations

import datasets

from training.data.dataset_rows import check_columns, encoded_column
from training.data.encoded_images import MAX_IMAGE_PIXELS
from training.data.errors import DataError
from training.data.label_images import StoredImage
from training.data.label_rules import LabelRules
from training.data.labelled_source import EncodedLabelledSource


class LabelledRows(EncodedLabelledSource):
    """Rows with a column of images and one of label images. Both stay encoded until they are read.

    Args:
        rows (`datasets.Dataset`): The rows.
        label (`str`): What messages call the data set.
        rules (`LabelRules`): What label maps may hold.
        image_column (`str`, defaults to `"image"`): Images, or the bytes or paths of image files.
        label_column (`str`, defaults to `"label"`): Label images, likewise.
        max_image_pixels (`int`, defaults to 100,000,000): Images of more pixels are refused.

    Raises:
        DataError: If a column is missing or holds something else, or both are one.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        label: str,
        rules: LabelRules,
        image_column: str = "image",
        label_column: str = "label",
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        super().__init__(rules, {}, max_image_pixels)
        self.label, self.label_column = label, label_column
        if image_column == label_column:
            raise DataError(f"data.label_column is {label_column!r}; allowed: another one than data.image_column")
        check_columns(rows, label, {"image_column": image_column, "label_column": label_column})
        self.images = encoded_column(rows, image_column, label)
        self.label_images = encoded_column(rows, label_column, label, "label_column")

    def __len__(self) -> int:
        return len(self.images)

    def image_file(self, index: int) -> StoredImage:
        """Tell where the image of a row lies; the row's number counts from 0."""
        return _file(self.images, index, f"{self.label} row {index}")

    def label_file(self, index: int) -> StoredImage:
        """Tell where the labels of a row lie."""
        return _file(self.label_images, index, f"{self.label} row {index}, column {self.label_column!r}")


def _file(images: datasets.Dataset, index: int, place: str) -> StoredImage:
    held = images[index]["image"] or {"bytes": None, "path": None}
    path = held["path"]
    return StoredImage(held["bytes"] or path or "", place + (f" ({path})" if path else ""))
