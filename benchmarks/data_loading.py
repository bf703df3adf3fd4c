"""Images a second out of each kind of data set, read in the order of training, in batches, by one process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from torch.utils.data import DataLoader

from benchmarks.compared_models import SHAPES
from benchmarks.measurement import Conditions, Row, interleaved, rate_row
from benchmarks.streaming import write_shards
from sd_pipeline import SDAutoencoderKL
from training.data.captioned_images import CaptionedImages
from training.data.catalogue import load_captioned_images
from training.data.latent_cache import CachedLatents
from training.data.shapes import ShapesSource
from training.engine.sampling_order import GlobalBatchSampler, order_of

_BATCH_SIZE = 32
_SIDE = 64


def rows(conditions: Conditions) -> list[Row]:
    """Measure the section `data`.

    Args:
        conditions (`Conditions`): How.
    """
    num_images, num_read = (64, 64) if conditions.is_tiny else (1024, 512)
    before = datasets.config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        try:
            sources = _sources(folder, num_images)
            readers = {name: partial(_read, source, num_read) for name, source in sources.items()}
            seconds = interleaved(readers, conditions.repetitions)
        finally:
            datasets.config.HF_DATASETS_CACHE = before
    return [rate_row("data", name, "images/s", num_read, seconds[name], None) for name in readers]


def _sources(folder: Path, num_images: int) -> dict[str, Any]:
    """Write every kind of data set, and open it as a run does; pictures are those of shapes, but in the tar files."""
    load: Callable[..., CaptionedImages] = partial(load_captioned_images, "train", resolution=_SIDE)
    pictures = ShapesSource("seen", num_images, _SIDE, 0)
    write_image_folder(folder / "images", pictures)
    write_parquet(folder / "images", folder / "parquet")
    write_shards(folder / "shards", num_images, _SIDE)
    shapes = load(dataset="shapes", num_samples=num_images)
    vae: Any = SDAutoencoderKL.from_pretrained(SHAPES / "vae")
    return {
        "digits, made for 32 pixels": load_captioned_images("train", dataset="digits", resolution=32),
        f"shapes, drawn at {_SIDE} pixels": shapes,
        f"folder of PNG files of {_SIDE} pixels": load(dataset=str(folder / "images")),
        f"folder of Parquet files, PNG of {_SIDE} pixels": load(dataset=str(folder / "parquet")),
        f"tar files, streamed, JPEG of {_SIDE} pixels": load(dataset=str(folder / "shards"), streaming=True),
        "cached latents, 16 x 16 x 4": CachedLatents(shapes, vae, folder / "latents"),
    }


def write_image_folder(folder: Path, pictures: ShapesSource) -> None:
    """Write PNG files, and their captions in `metadata.jsonl`.

    Args:
        folder (`Path`): Where to; it is made.
        pictures (`ShapesSource`): What to write.
    """
    folder.mkdir()
    lines = []
    for index in range(len(pictures)):
        name = f"{index:06d}.png"
        pictures.image(index).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": pictures.captions[index]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def write_parquet(images: Path, folder: Path) -> None:
    """Write the files of an image folder, as they are, into a Parquet file.

    Args:
        images (`Path`): What `write_image_folder` wrote.
        folder (`Path`): Where to; it is made.
    """
    folder.mkdir()
    lines = [json.loads(line) for line in (images / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    encoded = [{"bytes": (images / line["file_name"]).read_bytes(), "path": line["file_name"]} for line in lines]
    columns = {"image": encoded, "text": [line["text"] for line in lines]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")


def _read(dataset: Any, num_read: int) -> None:
    """Read batches of training; captions are left as they are, for tokens are made of them by the task."""
    sampler = GlobalBatchSampler(order_of(dataset, 0), _BATCH_SIZE, 1, 0, 1, 0, num_read // _BATCH_SIZE)
    for _ in DataLoader(dataset, batch_sampler=sampler):
        pass
