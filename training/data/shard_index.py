"""The index of a streamed data set: a memory-mapped table of its samples, made in one pass and kept in a cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from training.data.errors import DataError
from training.data.image_source import Caption, LazyCaptions
from training.data.parquet_listing import image_bytes, list_parquet_samples
from training.data.shard_storage import Shard, ShardError, open_shard, retried
from training.data.tar_listing import IndexedSample, list_tar_samples

_FORMAT = 1
_ROWS_OF_A_BATCH = 16_384
_SHARDS_AT_ONCE = 8
_SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "position": pa.int64(),
        "size": pa.int64(),
        "captions": pa.list_(pa.string()),
        "problem": pa.string(),
    }
)


class ShardIndex:
    """All samples of some shards, in their order, as a memory-mapped table.

    Args:
        file (`Path`): The table, as `index_of_shards` wrote it.

    Attributes:
        shards (`list[Shard]`): The shards.
        starts (`numpy.ndarray` of shape `(num_shards + 1,)`, int64): Number of the first sample of each shard, and of
            all samples.
        fingerprint (`str`): Another one for other shards, or other columns of them.
        image_bytes (`int`): Bytes of all images (Parquet: as the footers tell them).
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.fingerprint = file.stem
        self.table = _open(file)
        content = json.loads(self.table.schema.metadata[b"shards"])
        self.shards = [Shard(*shard) for shard in content["shards"]]
        self.starts = np.cumsum([0, *content["num_rows"]])
        self.image_bytes = int(content["image_bytes"])

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["file"])  # type: ignore[misc]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def value(self, column: str, index: int) -> Any:
        """Read one value of a sample: `name`, `position`, `size`, `captions` or `problem`."""
        return self.table.column(column)[index].as_py()

    def shard_of(self, index: int) -> Shard:
        """Tell in which shard a sample lies."""
        return self.shards[int(np.searchsorted(self.starts, index, side="right")) - 1]

    def problems(self) -> dict[int, str]:
        """List what is wrong with samples, as far as the index tells, by number."""
        column = self.table.column("problem")
        bad = np.flatnonzero(pc.is_valid(column).to_numpy())
        return dict(zip(bad.tolist(), column.take(pa.array(bad)).to_pylist(), strict=True))


class IndexedCaptions(LazyCaptions):
    """The captions of an index, read from its table when they are asked for.

    Args:
        index (`ShardIndex`): The index.
    """

    def __init__(self, index: ShardIndex) -> None:
        self._samples = index

    def __len__(self) -> int:
        return len(self._samples)

    def caption(self, index: int) -> Caption:
        """Read the caption of a sample."""
        return _caption(self._samples.value("captions", index))

    def __iter__(self) -> Iterator[Caption]:
        for batch in self._samples.table.select(["captions"]).to_batches():
            yield from map(_caption, batch.column(0).to_pylist())


def index_of_shards(shards: Sequence[Shard], kind: str, image_column: str, caption_column: str) -> ShardIndex:
    """Open the index of some shards, and make it if the cache does not hold it yet.

    It lies in the cache of `datasets` (`HF_DATASETS_CACHE`), under a name that follows from names and versions of the
    shards, so that changed shards are indexed anew. The first process makes it while others wait. Shards that are
    done are kept if the pass is interrupted.

    Args:
        shards (sequence of `Shard`): The shards.
        kind (`str`): `"tar"` or `"parquet"`.
        image_column (`str`): `data.image_column`.
        caption_column (`str`): `data.caption_column`.

    Returns:
        `ShardIndex`: the index.

    Raises:
        DataError: If a shard cannot be read, or lacks a column.
    """
    identity = [_FORMAT, kind, image_column, caption_column, [(shard.url, shard.version) for shard in shards]]
    name = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "sd_pipeline_shards"
    file, parts = folder / f"{name}.arrow", folder / name
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"an index cannot be written here ({error.strerror}); HF_DATASETS_CACHE names another folder"
            raise DataError(f"{folder}: {told}") from error
        with _locked(folder / f"{name}.lock"):
            if not file.exists():
                parts.mkdir(exist_ok=True)
                _index_each(shards, parts, kind, image_column, caption_column)
                _merge(parts, shards, file)
                shutil.rmtree(parts)
    return ShardIndex(file)


def _index_each(shards: Sequence[Shard], parts: Path, kind: str, image_column: str, caption_column: str) -> None:
    """Index every shard into a file of its own, several at once, since remote ones are waited for."""

    def make(numbered: tuple[int, Shard]) -> None:
        part = _part(parts, numbered[0])
        if not part.exists():
            shard = numbered[1]
            retried(lambda: _index_one(shard, part, kind, image_column, caption_column), shard.url)

    with ThreadPoolExecutor(max_workers=_SHARDS_AT_ONCE) as pool:
        progress = tqdm(pool.map(make, enumerate(shards)), "indexing", len(shards), unit="shard", disable=None)
        for _ in progress:
            pass


def _index_one(shard: Shard, part: Path, kind: str, image_column: str, caption_column: str) -> None:
    # A tar file is read from the beginning to the end; of a Parquet file, the footer and the captions.
    with open_shard(shard, "readahead" if kind == "tar" else "none") as file:
        try:
            if kind == "tar":
                samples = list(list_tar_samples(file, image_column, caption_column))
                total = sum(sample.size for sample in samples)
            else:
                samples = list(list_parquet_samples(file, shard.url, image_column, caption_column))
                total = image_bytes(pq.ParquetFile(file), image_column)
        except (tarfile.TarError, pa.ArrowInvalid) as error:
            what = "an uncompressed tar file" if kind == "tar" else "a Parquet file"
            raise ShardError(f"{shard.url}: not {what}, or cut ({' '.join(str(error).split())})") from error
    _write(part, [_table(samples)], {"image_bytes": total})


def _table(samples: Sequence[IndexedSample]) -> pa.Table:
    columns = {name: [getattr(sample, name) for sample in samples] for name in _SCHEMA.names}
    return pa.table(columns, schema=_SCHEMA)


def _merge(parts: Path, shards: Sequence[Shard], file: Path) -> None:
    tables = (_open(_part(parts, number)) for number in range(len(shards)))
    sizes = [(table.num_rows, json.loads(table.schema.metadata[b"shards"])["image_bytes"]) for table in tables]
    content = {
        "shards": [(shard.url, shard.version) for shard in shards],
        "num_rows": [num_rows for num_rows, _ in sizes],
        "image_bytes": sum(size for _, size in sizes),
    }
    _write(file, (_open(_part(parts, number)) for number in range(len(shards))), content)


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.arrow"


def _write(file: Path, tables: Any, content: dict[str, Any]) -> None:
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    schema = _SCHEMA.with_metadata({"shards": json.dumps(content)})
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata), max_chunksize=_ROWS_OF_A_BATCH)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(temporary, file)


def _open(file: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def _caption(captions: list[str]) -> Caption:
    return captions[0] if len(captions) == 1 else captions


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Let one process at a time in; the system opens the lock when its holder dies."""
    with file.open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield
