"""Reading pieces of files where they lie: a local disk, a network mount, the Hub, or any other place of fsspec."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from training.data.errors import DataError

RETRY_DELAYS = (1.0, 4.0, 16.0)
"""Seconds to wait before a failed read is tried again; after the last, it is an error."""
MAX_OPEN_FILES = 64

# What tells two contents of one size apart, by the names that file systems have for it, the surest first.
_IDENTITIES = ("ETag", "etag", "blob_id", "sha256", "md5Hash", "mtime", "LastModified", "last_modified", "updated")

_FINAL = (DataError, FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class ShardError(DataError):
    """A shard cannot be read: it is gone, cut or changed, or its server does not answer."""


@dataclass(frozen=True)
class Shard:
    """One file of a streamed data set.

    Args:
        url: Its path, or its URL.
        version: Changes whenever the content does: the size, and an ETag, a hash or the time of the last change.
    """

    url: str
    version: str


def file_system_of(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Find the file system of a path or URL, and the path in it.

    Raises:
        DataError: If there is no such kind of URL, or the package that reads it is missing.
    """
    try:
        file_system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"data.dataset: {url!r} cannot be read ({_one_line(error)})") from error
    return file_system, path


def version_of(information: Mapping[str, Any]) -> str:
    """Make the version of a file out of what its file system tells about it."""
    names = (name for name in (*_IDENTITIES, "created") if information.get(name))
    return f"{information['size']} {information.get(next(names, ''), '')}"


def retried(read: Callable[[], Result], url: str) -> Result:
    """Read, and again after some seconds if it fails for a reason that may pass.

    Args:
        read (callable): Reads.
        url (`str`): From where, for the message.

    Raises:
        ShardError: If the file is gone, or every attempt failed.
    """
    for delay in (*RETRY_DELAYS, None):
        try:
            return read()
        except FileNotFoundError as error:
            raise ShardError(f"{url}: the file does not exist (any more)") from error
        except _FINAL as error:
            raise error if isinstance(error, DataError) else ShardError(f"{url}: {_one_line(error)}") from error
        except Exception as error:  # Clients of servers have kinds of errors of their own.
            if delay is None:
                attempts = len(RETRY_DELAYS) + 1
                raise ShardError(f"{url}: cannot be read in {attempts} attempts ({_one_line(error)})") from error
            logger.warning("%s: %s; next attempt in %g s", url, _one_line(error), delay)
            time.sleep(delay)
    raise AssertionError("the last attempt returns or raises")


class ShardReader:
    """Reads pieces of shards. Files are opened when they are first read, by each process for itself.

    A file must be the one that was indexed: its version is compared when it is opened, and a piece that ends early is
    an error. So a shard that is replaced in the middle of a run never gives wrong samples.
    """

    def __init__(self) -> None:
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._files: OrderedDict[str, tuple[BinaryIO, threading.Lock]] = OrderedDict()

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """Read `size` bytes from `offset` on.

        Raises:
            ShardError: If the shard is gone, has changed, is shorter, or cannot be read in several attempts.
        """
        piece = retried(lambda: self._read_once(shard, offset, size), shard.url)
        if len(piece) != size:
            raise ShardError(f"{shard.url}: it ends before byte {offset + size}: it was cut since it was indexed")
        return piece

    def _read_once(self, shard: Shard, offset: int, size: int) -> bytes:
        file, lock = self._file(shard)
        try:
            if isinstance(getattr(file, "fs", None), LocalFileSystem):
                return os.pread(file.fileno(), size, offset)
            with lock:
                file.seek(offset)
                return file.read(size)
        except Exception:
            with self._lock:
                self._files.pop(shard.url, None)  # So that the next attempt opens it anew.
            raise

    def _file(self, shard: Shard) -> tuple[BinaryIO, threading.Lock]:
        if self._process != os.getpid():
            # What was opened before a fork is the parent's: position and connection would be shared.
            self._forget()
        with self._lock:
            if shard.url not in self._files:
                while len(self._files) >= MAX_OPEN_FILES:
                    self._files.popitem(last=False)
                self._files[shard.url] = open_shard(shard, "none"), threading.Lock()
            self._files.move_to_end(shard.url)
            return self._files[shard.url]


def open_shard(shard: Shard, cache_type: str) -> BinaryIO:
    """Open a shard, if it still is what it was when it was listed.

    Args:
        shard (`Shard`): The shard.
        cache_type (`str`): How fsspec reads ahead, where the file is remote: `"readahead"` for a pass from the
            beginning to the end, `"none"` for pieces.

    Raises:
        ShardError: If its version is another one.
    """
    file_system, path = file_system_of(shard.url)
    if version_of(file_system.info(path)) != shard.version:
        raise ShardError(f"{shard.url}: it has changed since it was indexed; run the same command again")
    if isinstance(file_system, LocalFileSystem):
        return cast(BinaryIO, file_system.open(path, "rb"))
    return cast(BinaryIO, file_system.open(path, "rb", cache_type=cache_type))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
