"""The samples of a Parquet file: its captions, and in which row group a row's image lies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.data.errors import DataError
from training.data.tar_listing import IndexedSample, usable_captions


def list_parquet_samples(
    file: BinaryIO, label: str, image_column: str, caption_column: str
) -> Iterator[IndexedSample]:
    """Read the captions of a Parquet file, one row group at a time; no image is read.

    Args:
        file (file object): The Parquet file.
        label (`str`): What messages call it.
        image_column (`str`): Column of the images.
        caption_column (`str`): Column of the captions.

    Yields:
        `IndexedSample`: the rows.

    Raises:
        DataError: If a column is missing, or the images are not held as bytes.
        pyarrow.ArrowInvalid: If it is no Parquet file.
    """
    table = pq.ParquetFile(file, pre_buffer=True)
    check_columns(table.schema_arrow, label, image_column, caption_column)
    row = 0
    for batch in table.iter_batches(columns=[caption_column]):
        for caption in batch.column(0).to_pylist():
            captions, problem = usable_captions(caption)
            yield IndexedSample(f"row {row}", row, captions=captions, problem=problem)
            row += 1


def check_columns(schema: pa.Schema, label: str, image_column: str, caption_column: str) -> None:
    """Check that a Parquet file has both columns, and holds its images as bytes."""
    for option, column in (("image_column", image_column), ("caption_column", caption_column)):
        if column not in schema.names:
            raise DataError(f"{label}: no column {column!r} (data.{option}); it has: {', '.join(schema.names)}")
    kind = schema.field(image_column).type
    held = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(held) or pa.types.is_large_binary(held)):
        raise DataError(f"{label}: column {image_column!r} (data.image_column) holds {kind}, not the bytes of images")


def first_rows(table: pq.ParquetFile) -> np.ndarray:
    """List the first row of each row group, and the number of rows.

    Returns:
        `numpy.ndarray` of shape `(num_row_groups + 1,)`, int64.
    """
    groups = table.metadata
    return np.cumsum([0, *(groups.row_group(number).num_rows for number in range(groups.num_row_groups))])


def image_bytes(table: pq.ParquetFile, image_column: str) -> int:
    """Add up the bytes of the image column in memory, as the footer tells them."""
    total = 0
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema.split(".")[0] == image_column:
                total += column.total_uncompressed_size
    return total
