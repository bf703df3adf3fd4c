"""How fast a latent cache is built, checked and read, and what an image takes on disk.

    accelerate launch benchmarks/latent_cache.py [--vae FOLDER] [--dataset shapes --resolution 64]

Without `--vae`, a tiny autoencoder with random weights encodes the digits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from sd_pipeline import SDAutoencoderKL
from training.data.catalogue import load_captioned_images
from training.data.latent_cache import CachedLatents


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", help="folder of an autoencoder (default: a tiny one with random weights)")
    parser.add_argument("--dataset", default="digits", help="as data.dataset of a run (default: digits)")
    parser.add_argument("--resolution", type=int, default=32, help="side of the pictures (default: 32)")
    parser.add_argument("--num-samples", type=int, default=10_000, help="scenes of shapes (default: 10000)")
    parser.add_argument(
        "--num-reads", type=int, default=20_000, help="items to read, in random order (default: 20000)"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the cache goes; it is removed (default: a temporary folder)"
    )
    options = parser.parse_args(arguments)
    processes = PartialState(cpu=not torch.accelerator.is_available())
    dataset = load_captioned_images(
        "train", dataset=options.dataset, resolution=options.resolution, num_samples=options.num_samples
    )
    vae = tiny_vae() if options.vae is None else SDAutoencoderKL.from_pretrained(options.vae)
    vae.to(processes.device)
    with tempfile.TemporaryDirectory(dir=options.folder) as own:
        (shared,) = broadcast_object_list([own])
        folder = Path(shared) / "latents"
        started = time.perf_counter()
        cached = CachedLatents(dataset, vae, folder)
        built = time.perf_counter()
        CachedLatents(dataset, vae, folder)
        checked = time.perf_counter()
        size = sum(file.stat().st_size for file in folder.iterdir())
        processes.print(
            f"built    {len(dataset) / (built - started):,.0f} images/s ({len(dataset):,} images, "
            f"{processes.num_processes} processes on {processes.device.type})\n"
            f"on disk  {size / len(dataset):,.0f} bytes an image, {size / 1e6:,.1f} MB\n"
            f"checked  {size / 1e9 / (checked - built):.2f} GB/s, {checked - built:.2f} s in all"
        )
        seconds = seconds_of_reading(cached, options.num_reads)
        processes.print(f"read     {options.num_reads / seconds:,.0f} images/s in random order, by each process")
        processes.wait_for_everyone()


def tiny_vae() -> SDAutoencoderKL:
    """Make an autoencoder that shrinks four times, with random weights."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    return SDAutoencoderKL(block_out_channels=(8, 16, 16), norm_num_groups=4, **blocks).eval()


def seconds_of_reading(cached: CachedLatents, num_reads: int) -> float:
    """Read items in random order, and take the time."""
    indices = np.random.default_rng(0).integers(len(cached), size=num_reads).tolist()
    started = time.perf_counter()
    for number, index in enumerate(indices):
        cached[(number, index)]
    return time.perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1:])
