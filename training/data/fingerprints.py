"""Fingerprints: short texts that differ where what they are taken of differs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from sd_pipeline import SDAutoencoderKL

# What the encoder is built from. Scale and decoder come after the latents that are cached.
_ENCODER_KEYS = (
    "in_channels",
    "down_block_types",
    "block_out_channels",
    "layers_per_block",
    "act_fn",
    "latent_channels",
    "norm_num_groups",
    "use_quant_conv",
    "mid_block_add_attention",
    "posterior",
)


def digest(parts: Iterable[object]) -> str:
    """Hash texts, or what has one, in order.

    Args:
        parts (iterable): What is hashed; where one ends and the next begins counts too.

    Returns:
        `str`: SHA-256, in hexadecimal.
    """
    found = hashlib.sha256()
    for part in parts:
        text = str(part).encode("utf-8", "surrogateescape")
        found.update(len(text).to_bytes(8, "little") + text)
    return found.hexdigest()


def file_stamps(files: Iterable[str], folder: Path | None = None) -> Iterator[str]:
    """Tell the state of files without reading them: path, size and time of the last change.

    Args:
        files (iterable of `str`): Their paths, in an order that is always the same.
        folder (`Path`, *optional*): What the paths are relative to. It is no part of the stamps, so it may move.

    Yields:
        `str`: the stamp of each file; of one that is not there it says so.
    """
    for file in files:
        try:
            status = os.stat(file if folder is None else folder / file)
        except OSError:
            yield f"{file} is missing"
        else:
            yield f"{file} {status.st_size} {status.st_mtime_ns}"


def autoencoder_fingerprint(vae: SDAutoencoderKL) -> str:
    """Hash an autoencoder: its weights (names, types, shapes and bytes) and how its encoder is built.

    Args:
        vae (`SDAutoencoderKL`): The autoencoder, on any device.

    Returns:
        `str`: SHA-256, in hexadecimal.
    """
    tiles = (vae.tile_sample_min_size, vae.tile_overlap_factor) if vae.use_tiling else None
    found = hashlib.sha256(digest([*(f"{key} {vae.config[key]}" for key in _ENCODER_KEYS), tiles]).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        found.update(digest([name, tensor.dtype, tuple(tensor.shape)]).encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
