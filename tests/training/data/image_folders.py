"""Small image folders for the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_image(path: Path, number: int = 0, size: tuple[int, int] = (40, 30)) -> None:
    """Write a picture that compresses badly, so that a cut file misses some of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def write_metadata(folder: Path, rows: list[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_folder(folder: Path, num_images: int = 4, suffix: str = ".png") -> Path:
    names = [f"{number:02d}{suffix}" for number in range(num_images)]
    for number, name in enumerate(names):
        write_image(folder / name, number)
    write_metadata(folder, [{"file_name": name, "text": f"picture {name[:2]}"} for name in names])
    return folder


def cut(path: Path, share: float = 0.6) -> None:
    """Keep the beginning of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def write_shapes(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """Write one picture of each size."""
    for number, size in enumerate(sizes):
        write_image(folder / f"{number:02d}.png", number, size)
    rows = [{"file_name": f"{number:02d}.png", "text": f"picture {number}"} for number in range(len(sizes))]
    write_metadata(folder, rows)
    return folder
