"""The files of a latent cache: posteriors of consecutive images as safetensors, each with a checksum of its own."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from training.data.errors import DataError
from training.data.latent_identity import CacheIdentity, is_leftover
from training.engine.checkpointing import flush

# Safetensors writes several entries of its metadata in an order that changes from process to process, so there is one.
_LABEL = "latents"
_SECONDS_OF_A_WRITE = 3600.0


def shard_file(folder: Path, shard: int) -> Path:
    """Name the file of a shard."""
    return folder / f"shard-{shard:05d}.safetensors"


def write_shard(folder: Path, identity: CacheIdentity, shard: int, mean: torch.Tensor, logvar: torch.Tensor) -> None:
    """Write a shard aside, flush it and put it in place.

    Args:
        folder (`Path`): The cache's folder.
        identity (`CacheIdentity`): The cache.
        shard (`int`): Number of the shard.
        mean (`torch.Tensor` of shape `(n, channels, height, width)`): Posterior means, float32.
        logvar (`torch.Tensor`, same shape): Posterior log-variances, float32.

    Raises:
        OSError: If the disk refuses. Nothing is left but what was there before.
    """
    tensors = {"mean": mean.contiguous(), "logvar": logvar.contiguous()}
    label = _label(identity, shard)
    metadata = {_LABEL: json.dumps({**label, "sha256": _checksum(label, tensors)}, sort_keys=True)}
    file = shard_file(folder, shard)
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        aside.write_bytes(save(tensors, metadata))
        flush(aside)
        os.replace(aside, file)
        flush(folder)
    except OSError as error:
        told = f"{error.strerror}; no shard is lost that was finished, run the same command again to go on"
        raise OSError(error.errno or errno.EIO, told, str(file)) from error
    finally:
        aside.unlink(missing_ok=True)


def open_shard(folder: Path, identity: CacheIdentity, shard: int) -> dict[str, torch.Tensor]:
    """Map a shard into memory, without comparing its content with its checksum.

    Args:
        folder (`Path`): The cache's folder.
        identity (`CacheIdentity`): The cache.
        shard (`int`): Number of the shard.

    Returns:
        `dict[str, torch.Tensor]`: `mean` and `logvar` of shape `(n, channels, height, width)`, float32. The system
        reads of the file what is looked at, and may forget it again.

    Raises:
        DataError: If the file is missing or cut, or is not this shard of this cache.
    """
    file = shard_file(folder, shard)
    label, tensors = _read(file)
    if {**label, "sha256": None} != {**_label(identity, shard), "sha256": None}:
        raise DataError(f"{file}: belongs to another latent cache or place; remove it, and it is built again")
    shape = (len(identity.rows(shard)), *identity.latent_shape)
    if any(tensor.shape != shape or tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise DataError(f"{file}: mean and logvar must be float32 of shape {shape}")
    return tensors


def shard_damage(folder: Path, identity: CacheIdentity, shard: int) -> str | None:
    """Compare a shard with its checksum.

    Args:
        folder (`Path`): The cache's folder.
        identity (`CacheIdentity`): The cache.
        shard (`int`): Number of the shard.

    Returns:
        `str` or `None`: what is wrong with the file, in one line that names it; `None` where it is whole.

    Raises:
        DataError: If it is whole and belongs to another cache.
    """
    file = shard_file(folder, shard)
    try:
        label, tensors = _read(file)
    except DataError as error:
        return str(error)
    if label.pop("sha256", None) != _checksum(label, tensors):
        return f"{file}: it differs from its checksum"
    open_shard(folder, identity, shard)
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing; no write takes an hour, so that of a living one is left alone."""
    for path in folder.iterdir():
        try:
            if is_leftover(path.name) and time.time() - path.stat().st_mtime > _SECONDS_OF_A_WRITE:
                path.unlink(missing_ok=True)
        except OSError:
            continue  # Another process was faster, or the folder may only be read.


def _read(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Map a file, and read what it says of itself."""
    try:
        with safe_open(file, framework="pt") as opened:
            label = json.loads(opened.metadata()[_LABEL])
        tensors = load_file(file)
        return {**label}, {name: tensors[name] for name in ("logvar", "mean")}
    except FileNotFoundError as error:
        raise DataError(f"{file}: it is missing") from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{file}: it is cut or damaged ({error.__class__.__name__})") from error


def _label(identity: CacheIdentity, shard: int) -> dict[str, object]:
    return {"fingerprint": identity.fingerprint, "first_image": identity.rows(shard).start}


def _checksum(label: dict[str, object], tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256(json.dumps(label, sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(tensors[name].numpy().data)
    return found.hexdigest()
