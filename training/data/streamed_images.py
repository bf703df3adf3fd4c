"""Images that are read one by one from where their shards lie, through an index."""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections import OrderedDict
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from training.data.encoded_images import MAX_IMAGE_PIXELS, EncodedImageSource
from training.data.errors import DataError
from training.data.parquet_listing import first_rows
from training.data.shard_index import IndexedCaptions, ShardIndex, index_of_shards
from training.data.shard_listing import kind_of
from training.data.shard_storage import Shard, ShardError, ShardReader, open_shard, retried

ROW_GROUP_BYTES = 256 * 1024**2
"""Row groups of Parquet files that a process keeps in memory, in bytes; an order's window takes half of it."""
_OPEN_TABLES = 16
MAX_LISTED_CAPTIONS = 1_000_000
"""So many captions of a streamed data set train a tokenizer: the first ones."""


class StreamedImageSource(EncodedImageSource):
    """Samples of shards. It holds an index and no images; processes open the shards for themselves.

    Args:
        index (`ShardIndex`): The samples.
        max_image_pixels (`int`, defaults to 100,000,000): Pictures of more pixels are refused.

    Attributes:
        captions (`IndexedCaptions`): One caption a sample, or a list of captions, read when they are asked for.
    """

    def __init__(self, index: ShardIndex, max_image_pixels: int = MAX_IMAGE_PIXELS) -> None:
        self.index = index
        super().__init__(IndexedCaptions(index), index.problems(), max_image_pixels)

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Read the bytes of an image's file."""

    def image(self, index: int) -> Image.Image:
        """Read and decode an image, upright and in RGB.

        Raises:
            ShardError: If its shard cannot be read, or is not what was indexed.
            DataError: If it is damaged or too large.
        """
        try:
            return super().image(index)
        except DataError as error:
            if isinstance(error.__cause__, ShardError):
                raise ShardError(str(error)) from error
            raise

    def name(self, index: int) -> str:
        """Name a sample by its shard and what it is called there."""
        return f"{self.index.shard_of(index).url}: {self.index.value('name', index)}"

    def fingerprint(self) -> str:
        """Hash names and versions of the shards, and where in them each image lies."""
        return f"shards {self.index.fingerprint}"

    def longest_window(self) -> int | None:
        """Tell over how many samples an order may jump about without reading anything twice; None for any number."""
        return None


class TarImageSource(StreamedImageSource):
    """Samples of tar files, each image read by itself."""

    def __init__(self, index: ShardIndex, max_image_pixels: int = MAX_IMAGE_PIXELS) -> None:
        super().__init__(index, max_image_pixels)
        self.reader = ShardReader()

    def encoded(self, index: int) -> bytes:
        """Read the bytes of an image's file."""
        position, size = self.index.value("position", index), self.index.value("size", index)
        return self.reader.read(self.index.shard_of(index), position, size)


class ParquetImageSource(StreamedImageSource):
    """Rows of Parquet files. A row group is read whole, and kept while its neighbours are asked for.

    Args:
        index (`ShardIndex`): The samples.
        image_column (`str`): Column of the images.
        max_image_pixels (`int`, defaults to 100,000,000): Pictures of more pixels are refused.
    """

    def __init__(self, index: ShardIndex, image_column: str, max_image_pixels: int = MAX_IMAGE_PIXELS) -> None:
        super().__init__(index, max_image_pixels)
        self.row_groups = RowGroupReader(image_column)

    def encoded(self, index: int) -> bytes:
        """Give the bytes of an image's file."""
        held = self.row_groups.read(self.index.shard_of(index), self.index.value("position", index))
        encoded = held.get("bytes") if isinstance(held, dict) else held
        if not encoded:
            raise DataError("it has no image (only a path)" if isinstance(held, dict) else "it has no image")
        return cast(bytes, encoded)

    def longest_window(self) -> int | None:
        """Tell how many samples take half of the memory for row groups."""
        mean_size = max(1, self.index.image_bytes // max(1, len(self.index)))
        return max(1, ROW_GROUP_BYTES // 2 // mean_size)


class RowGroupReader:
    """Reads rows of Parquet files, each process for itself, and keeps the row groups that were read last.

    Args:
        column (`str`): The one column that is read.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"column": self.column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._tables: OrderedDict[str, tuple[pq.ParquetFile, np.ndarray]] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()

    def read(self, shard: Shard, row: int) -> Any:
        """Read the column's value in a row.

        Raises:
            ShardError: If the shard cannot be read, or is not what was indexed.
        """
        if self._process != os.getpid():
            # What was opened before a fork is the parent's: position and connection would be shared.
            self._forget()
        with self._lock:
            return retried(lambda: self._read_once(shard, row), shard.url).as_py()

    def _read_once(self, shard: Shard, row: int) -> pa.Scalar:
        try:
            table, starts = self._table(shard)
            number = int(np.searchsorted(starts, row, side="right")) - 1
            key = (shard.url, number)
            if key not in self._groups:
                self._groups[key] = table.read_row_group(number, columns=[self.column]).column(0)
                while len(self._groups) > 1 and sum(group.nbytes for group in self._groups.values()) > ROW_GROUP_BYTES:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            return self._groups[key][row - int(starts[number])]
        except Exception:
            self._tables.pop(shard.url, None)  # So that the next attempt opens it anew.
            raise

    def _table(self, shard: Shard) -> tuple[pq.ParquetFile, np.ndarray]:
        if shard.url not in self._tables:
            while len(self._tables) >= _OPEN_TABLES:
                self._tables.popitem(last=False)
            # The column of a row group lies in one piece; reading ahead would fetch other columns.
            table = pq.ParquetFile(open_shard(shard, "none"), pre_buffer=True)
            self._tables[shard.url] = table, first_rows(table)
        self._tables.move_to_end(shard.url)
        return self._tables[shard.url]


def open_streamed(
    shards: list[Shard], image_column: str, caption_column: str, max_image_pixels: int = MAX_IMAGE_PIXELS
) -> StreamedImageSource:
    """Open shards as a source of images; their index is made if need be.

    Args:
        shards (`list[Shard]`): Shards of one kind.
        image_column (`str`): Column (Parquet) or extension (tar) of the images.
        caption_column (`str`): Column, extension or JSON key of the captions.
        max_image_pixels (`int`, defaults to 100,000,000): Pictures of more pixels are refused.
    """
    kind = kind_of(shards)
    index = index_of_shards(shards, kind, image_column, caption_column)
    if kind == "tar":
        return TarImageSource(index, max_image_pixels)
    return ParquetImageSource(index, image_column, max_image_pixels)
