"""Finding the shards of a data set that is streamed, and what of them is for training and for validation."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from fsspec.implementations.local import LocalFileSystem

from training.data.errors import DataError
from training.data.shard_storage import Shard, file_system_of, retried, version_of

SHARD_KINDS = {".tar": "tar", ".parquet": "parquet"}

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
# The words of folders and file names that `datasets` takes for the names of splits.
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_ALLOWED = (
    "a folder, a URL or a data set on the Hub with shards: .tar files (webdataset), or .parquet files with an image "
    "column"
)

Splits = dict[str, list[Shard]]


def find_shards(dataset: str, dataset_revision: str | None = None, dataset_config_name: str | None = None) -> Splits:
    """Find the shards of each split, sorted by name.

    Args:
        dataset (`str`):
            A folder; a path or URL of fsspec (`hf://datasets/...`, `s3://...`, `https://...`), of a folder or with
            braces and asterisks (`https://host/{000..010}.tar`); or the name of a data set on the Hub. In folders and
            patterns the names tell the splits: `train`, `validation` (or `valid`, `val`, `dev`), `test` (or `eval`),
            as the name of a subfolder or as a word of the file's name; files without such a word are for training.
        dataset_revision (`str`, *optional*): Branch, tag or commit on the Hub.
        dataset_config_name (`str`, *optional*): Configuration (subset) of a Hub data set.

    Returns:
        `dict[str, list[Shard]]`: shards by split, all of one kind.

    Raises:
        DataError: If there are no shards, two kinds of them, or compressed ones.
    """
    is_pattern = "://" in dataset or any(mark in dataset for mark in "{*")
    folder = Path(dataset).expanduser()
    if is_pattern or folder.is_dir():
        for key, value in (("dataset_revision", dataset_revision), ("dataset_config_name", dataset_config_name)):
            if value is not None:
                raise DataError(f"data.{key}: {value!r} given, but {dataset!r} is no name of a data set on the Hub")
        named = list(_matching_files(dataset) if is_pattern else _files_in(str(folder)))
        splits: Splits = {}
        for name, shard in named:
            splits.setdefault(_split_of(name), []).append(shard)
    elif dataset.startswith((".", "/", "~")) or dataset.count("/") > 1 or folder.exists():
        raise DataError(f"data.dataset: {dataset!r} is not a folder; allowed with data.streaming: {_ALLOWED}")
    else:
        splits = _on_the_hub(dataset, dataset_revision, dataset_config_name)
    return _checked(splits, dataset)


def kind_of(shards: list[Shard]) -> str:
    """Tell the kind of a split's shards: `"tar"` or `"parquet"`."""
    return SHARD_KINDS[_suffix(shards[0].url)]


def expand_braces(pattern: str) -> list[str]:
    """Expand `{000..010}` and `{a,b}` as shells and webdataset do.

    Example:
        ```python
        >>> from training.data.shard_listing import expand_braces
        >>> expand_braces("{a,b}-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']

        ```
    """
    parts = _BRACES.split(pattern)
    choices = [_choices(part) if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    ends = _RANGE.fullmatch(inside)
    if ends is None:
        return inside.split(",")
    first, last = ends.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _matching_files(pattern: str) -> Iterator[tuple[str, Shard]]:
    """Yield the files that a pattern names, each with what tells its split."""
    for url in expand_braces(pattern):
        file_system, path = file_system_of(url)
        if "*" in path:
            found = retried(partial(file_system.glob, path, detail=True), url)
            yield from ((os.path.basename(shard.url), shard) for shard in _shards_of(file_system, found))
        elif _is_shard(path):
            yield os.path.basename(path), _shard(file_system, path, url)
        else:
            yield from _files_in(url)


def _files_in(folder: str) -> Iterator[tuple[str, Shard]]:
    file_system, path = file_system_of(folder)
    found = retried(partial(file_system.find, path, detail=True), folder)
    for shard in _shards_of(file_system, found):
        below = shard.url[shard.url.index(path) + len(path) :].lstrip("/")
        if not any(part.startswith(".") for part in below.split("/")):
            yield below, shard


def _shards_of(file_system: Any, found: Mapping[str, Mapping[str, Any]]) -> Iterator[Shard]:
    is_local = isinstance(file_system, LocalFileSystem)
    for name, information in sorted(found.items()):
        if information["type"] == "file":
            yield Shard(name if is_local else file_system.unstrip_protocol(name), version_of(information))


def _shard(file_system: Any, path: str, url: str) -> Shard:
    return Shard(url, version_of(retried(partial(file_system.info, path), url)))


def _split_of(name: str) -> str:
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), "train")


def _on_the_hub(dataset: str, revision: str | None, config_name: str | None) -> Splits:
    try:
        builder = datasets.load_dataset_builder(dataset, config_name, revision=revision)
    except (DatasetsError, OSError, ValueError) as error:
        told = " ".join(str(error).split())[:300]
        raise DataError(f"data.dataset: {dataset!r} cannot be loaded ({told}); allowed: {_ALLOWED}") from error
    splits: Splits = {}
    for split, urls in (builder.config.data_files or {}).items():
        splits[str(split)] = [_shard(*file_system_of(url), url) for url in sorted(map(str, urls))]
    return splits


def _suffix(url: str) -> str:
    return os.path.splitext(url.split("?")[0])[1].lower()


def _is_shard(url: str) -> bool:
    return _suffix(url) in SHARD_KINDS or url.lower().endswith(_COMPRESSED)


def _checked(splits: Splits, dataset: str) -> Splits:
    everything = [shard.url for shards in splits.values() for shard in shards]
    compressed = next((url for url in everything if url.lower().endswith(_COMPRESSED)), None)
    if compressed is not None:
        raise DataError(f"{compressed}: compressed, so no sample can be read by itself; allowed: a plain .tar")
    suffixes = sorted({_suffix(url) for url in everything})
    kinds = [suffix for suffix in suffixes if suffix in SHARD_KINDS]
    if not kinds:
        held = f"holds no shards, but {', '.join(suffixes[:4])}" if suffixes else "holds no files"
        raise DataError(f"data.dataset: {dataset!r} {held}; allowed with data.streaming: {_ALLOWED}")
    if len(kinds) > 1:
        raise DataError(f"data.dataset: {dataset!r} holds {' and '.join(kinds)} files; allowed: one kind")
    # Beside the shards lie cards, pictures and tables of sizes, which are not samples.
    chosen = {split: [s for s in shards if _suffix(s.url) in SHARD_KINDS] for split, shards in splits.items()}
    return {split: sorted(shards, key=lambda shard: shard.url) for split, shards in chosen.items() if shards}
