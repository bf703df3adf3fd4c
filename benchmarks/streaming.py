"""How fast images come out of tar files through the index and workers, beside decoding alone.

    python benchmarks/streaming.py [--num-images 10000] [--side 256] [--workers 0 1 2] [--folder FOLDER]

Writes JPEG images into shards, times the pass that makes their index, decodes the same bytes from memory in this
process, and reads an epoch in the order of training: cropped, scaled to [-1, 1] and stacked. Then it measures how long
a step waits for its batch if an accelerator is busy with it for a tenth of a second.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from training.data.captioned_images import CaptionedImages
from training.data.catalogue import load_captioned_images
from training.engine.sampling_order import GlobalBatchSampler

_BATCH_SIZE = 32
_IMAGES_OF_A_SHARD = 1000
_STEP_SECONDS = 0.1
_STEPS, _STEPS_BEFORE = 50, 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--side", type=int, default=256, help="of the images, in pixels (default: 256)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers to try (default: 0 1 2)")
    parser.add_argument("--folder", type=Path, help="where the shards go, and stay (default: a temporary folder)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        datasets.config.HF_DATASETS_CACHE = Path(temporary) / "cache"
        folder = options.folder or Path(temporary) / "shards"
        if not folder.exists():
            write_shards(folder, options.num_images, options.side)
        measure(folder, options.num_images, options.side, options.workers)


def write_shards(folder: Path, num_images: int, side: int) -> None:
    """Write smooth random pictures, which take about as many bytes as photographs of their size."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(100):
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = rng.integers(-12, 13, smooth.shape, dtype=np.int16)
        file = io.BytesIO()
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        pictures.append(file.getvalue())
    for first in range(0, num_images, _IMAGES_OF_A_SHARD):
        with tarfile.open(folder / f"{first // _IMAGES_OF_A_SHARD:05d}.tar", "w") as archive:
            for number in range(first, min(first + _IMAGES_OF_A_SHARD, num_images)):
                caption = f"picture number {number}".encode()
                for extension, content in (("jpg", pictures[number % 100]), ("txt", caption)):
                    member = tarfile.TarInfo(f"{number:08d}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def measure(folder: Path, num_images: int, side: int, workers: Sequence[int]) -> None:
    """Print what was measured."""
    load = {"dataset": str(folder), "resolution": side, "streaming": True}
    seconds, dataset = timed(lambda: load_captioned_images("train", **load))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{num_images} images of {side} pixels, {size / num_images / 1024:.0f} KiB each, batches of {_BATCH_SIZE}")
    print(f"first opening, index and checks: {seconds:.2f} s")
    seconds, dataset = timed(lambda: load_captioned_images("train", **load))
    print(f"opening again, checks only:      {seconds:.2f} s")

    source = dataset.source.source
    encoded = [source.encoded(number) for number in range(min(num_images, 1000))]
    seconds, _ = timed(lambda: [Image.open(io.BytesIO(content)).convert("RGB") for content in encoded])
    print(f"Pillow decoding from memory:     {len(encoded) / seconds:.0f} images/s")
    seconds, _ = timed(lambda: [source.encoded(number) for number in range(num_images)])
    print(f"bytes out of the shards:         {num_images / seconds:.0f} images/s")
    seconds, _ = timed(lambda: [dataset.order.index(number, _BATCH_SIZE) for number in range(num_images)])
    print(f"order:                           {num_images / seconds:.0f} indices/s")
    for number in workers:
        print(f"batches, {number} workers:              {images_per_second(dataset, number):.0f} images/s")
    for number in workers:
        wait = 1000 * mean_wait(dataset, number)
        print(f"a step of {1000 * _STEP_SECONDS:.0f} ms, {number} workers:  waits {wait:.1f} ms for its batch")


def images_per_second(dataset: CaptionedImages, num_workers: int) -> float:
    """Read an epoch in the order of training, from the first batch on, which waits for the workers to start."""
    num_batches = len(dataset) // _BATCH_SIZE
    loader = batches(dataset, num_workers, num_batches)
    next(loader)
    seconds, _ = timed(lambda: sum(1 for _ in loader))
    return (num_batches - 1) * _BATCH_SIZE / seconds


def mean_wait(dataset: CaptionedImages, num_workers: int) -> float:
    """Measure the seconds that a step waits for its batch, where an accelerator works on the one before."""
    loader = batches(dataset, num_workers, _STEPS + _STEPS_BEFORE)
    waits = []
    for _ in range(_STEPS + _STEPS_BEFORE):
        waits.append(timed(lambda: next(loader))[0])
        time.sleep(_STEP_SECONDS)
    return float(np.mean(waits[_STEPS_BEFORE:]))


def batches(dataset: CaptionedImages, num_workers: int, num_batches: int) -> Iterator[object]:
    """Make the batches of training."""
    sampler = GlobalBatchSampler(dataset.order, _BATCH_SIZE, 1, 0, 1, 0, num_batches)
    return iter(DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers))


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Run `work`; return the seconds it took, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
