"""Small labelled images for the tests, written as people's tools write them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 18)
"""Width and height."""


def grey_image(number: int = 0, size: tuple[int, int] = SIZE, dtype: type = np.uint8) -> np.ndarray:
    """Draw noise, another one for each number."""
    width, height = size
    return np.random.default_rng(number).integers(0, np.iinfo(dtype).max, (height, width), dtype, endpoint=True)


def label_map(number: int = 0, size: tuple[int, int] = SIZE, num_labels: int = 4) -> np.ndarray:
    """Draw labels from 0 on, all of which occur: int32."""
    width, height = size
    labels = np.random.default_rng(1000 + number).integers(0, num_labels, height * width, np.int32)
    labels[:num_labels] = np.arange(num_labels)
    return labels.reshape(height, width)


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write an array as an image file of its type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_labels(path: Path, number: int = 0, num_labels: int = 4) -> np.ndarray:
    labels = label_map(number, num_labels=num_labels)
    save(path, labels.astype(np.uint8))
    return labels


def save_stack(path: Path, pages: Sequence[np.ndarray], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others, **options)
    return path


def write_pairs(folder: Path, num_images: int = 4, num_labels: int = 4) -> Path:
    """Write a folder with `images` and `labels`."""
    for number in range(num_images):
        save(folder / "images" / f"{number:02d}.png", grey_image(number))
        save_labels(folder / "labels" / f"{number:02d}.png", number, num_labels)
    return folder


def write_png(path: Path, rows: Sequence[bytes], size: tuple[int, int], bits: int, color_type: int) -> Path:
    """Write a PNG that Pillow does not write: of few bits of grey (color type 0), or many of colours (2)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size, bits, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def write_tiff(path: Path, pixels: np.ndarray, sample_format: int) -> Path:
    """Write a plain little-endian TIFF of any type of numbers; sample format 1 is unsigned, 2 signed, 3 float."""
    height, width = pixels.shape
    data = np.ascontiguousarray(pixels).tobytes()
    bits = pixels.dtype.itemsize * 8
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
        339: sample_format,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
    return path
