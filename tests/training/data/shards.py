"""Small data sets in shards for the tests: the same samples as tar files, Parquet files and as an image folder."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.training.data.image_folders import write_metadata
from training.data.digits import DigitsSource


def encoded(number: int, kind: str = "PNG", side: int = 16) -> bytes:
    """Encode a picture whose red tells its number, with noise."""
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    noise[..., 0] = number
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def text(number: int) -> str:
    return f"text {number}"


def tar_members(numbers: Sequence[int]) -> list[tuple[str, bytes]]:
    return [
        (f"{number:05d}.{extension}", content)
        for number in numbers
        for extension, content in (("png", encoded(number)), ("txt", text(number).encode()))
    ]


def shares(sizes: Sequence[int]) -> list[range]:
    ends = np.cumsum([0, *sizes]).tolist()
    return [range(first, last) for first, last in itertools.pairwise(ends)]


def write_tars(folder: Path, sizes: Sequence[int], split: str = "train") -> Path:
    for shard, numbers in enumerate(shares(sizes)):
        write_tar(folder / f"{split}-{shard:04d}.tar", tar_members(numbers))
    return folder


def write_digit_tars(folder: Path, num_shards: int, each: int) -> Path:
    """Write handwritten digits with their captions."""
    digits = DigitsSource("train")
    for shard, numbers in enumerate(shares([each] * num_shards)):
        members = []
        for number in numbers:
            file = io.BytesIO()
            digits.image(number).save(file, "PNG")
            members += [(f"{number:04d}.png", file.getvalue())]
            members += [(f"{number:04d}.txt", str(digits.captions[number]).encode())]
        write_tar(folder / f"{shard:03d}.tar", members)
    return folder


def write_parquet(path: Path, columns: Mapping[str, Sequence[object]], rows_of_a_group: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, row_group_size=rows_of_a_group)
    return path


def write_parquets(folder: Path, sizes: Sequence[int]) -> Path:
    for shard, numbers in enumerate(shares(sizes)):
        images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in numbers]
        columns = {"image": images, "text": [text(number) for number in numbers]}
        write_parquet(folder / "data" / f"train-{shard:05d}-of-{len(sizes):05d}.parquet", columns)
    return folder


def write_same_folder(folder: Path, count: int) -> Path:
    write_metadata(folder, [{"file_name": f"{n:05d}.png", "text": text(n)} for n in range(count)])
    for number in range(count):
        (folder / f"{number:05d}.png").write_bytes(encoded(number))
    return folder


def json_of(**fields: object) -> bytes:
    return json.dumps(fields).encode()
