"""Do annotated cells that a diffusion model drew help to train the U-Net that segments real ones?

    python benchmarks/drawn_cells.py pictures            # cuts 64x64 pictures with labels out of 30 micrographs
    accelerate launch training/train.py --config benchmarks/drawn_cells.yaml
    python benchmarks/drawn_cells.py draw               # draws 60 of 256x256 pixels
    for data in real real_and_drawn drawn; do           # the 30, with the 60, and the 60 alone
        accelerate launch training/train.py --config configs/cells.yaml --segmentation.max_train_steps=1000 \
            --data.dataset=outputs/drawn_cells/$data --output_dir=outputs/drawn_cells/unet_$data
        python training/evaluate_model.py --model outputs/drawn_cells/unet_$data/pipeline --suite segmentation \
            --dataset cells
    done

The 30 micrographs are those of `configs/cells.yaml` with the seed 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image

from sd_pipeline import SDAutoencoderKL, SDPipeline
from sd_pipeline.pipelines.segmentation_overlay import overlay
from training.data.annotated_pictures import annotated_picture, image_and_cells
from training.data.cells import CellsSource
from training.data.elastic_deformation import resampled
from training.data.labelled_tiles import Augmentation, TileSize, moved_places, random_start, tile_places
from training.engine.random_streams import sample_rng

PLACE = Path("outputs/drawn_cells")
NUM_REAL = 30
_SIZE = TileSize(64, 64)
_SHOWN = 4
# Whatever keeps a micrograph one: turned and mirrored, and a little deformed.
_AUGMENTATION = Augmentation(elastic_std=2.0, max_rotation=180.0, random_flip=True)


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, default in (("pictures", 6000), ("draw", 60)):
        command = commands.add_parser(name)
        command.add_argument("--num-images", type=int, default=default, help=f"default: {default}")
        command.add_argument("--seed", type=int, default=0, help="of the micrographs, and of what is drawn")
        command.add_argument("--place", type=Path, default=PLACE, help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    {"pictures": write_pictures, "draw": draw}[options.command](options)


def write_pictures(options: argparse.Namespace) -> None:
    """Cut tiles of images and labels together, and write each as one picture, with a caption that nobody reads."""
    real, folder = CellsSource("train", NUM_REAL, options.seed), options.place / "pictures"
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for number in range(options.num_images):
            rng = sample_rng(options.seed, "pictures", number)
            image, instances = np.asarray(real.image(number % NUM_REAL)), real.labels(number % NUM_REAL)
            starts = (random_start(rng, image.shape[0], 64), random_start(rng, image.shape[1], 64))
            places = moved_places(rng, tile_places(starts, _SIZE), _AUGMENTATION)
            tile = annotated_picture(resampled(image, places), resampled(instances, places, is_label=True))
            Image.fromarray(tile).save(folder / f"{number}.png")
            metadata.write(json.dumps({"file_name": f"{number}.png", "text": "cells"}) + "\n")


def draw(options: argparse.Namespace) -> None:
    """Draw annotated micrographs; write them and the real ones into a folder each, and both into a third."""
    pipe = SDPipeline.from_pretrained(options.place / "diffusion" / "pipeline")
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    noise_std = grey_noise(pipe.vae, options.place / "pictures")
    print(f"noise of the grey values: {noise_std:.1f} of 255")
    real, shown = CellsSource("train", NUM_REAL, options.seed), list[Image.Image]()
    for number in range(NUM_REAL):
        image, instances = np.asarray(real.image(number)), real.labels(number)
        for folder in ("real", "real_and_drawn"):
            _write(options.place / folder, f"real_{number}", image, instances)
    for number in range(options.num_images):
        generator = torch.Generator().manual_seed(options.seed * 1_000_000 + number)
        output: Any = pipe(batch_size=1, height=256, width=256, generator=generator)
        smooth, instances = image_and_cells(np.asarray(output.images[0]))
        # A draw of the decoder's likelihood, of which the picture is the mean.
        noise = sample_rng(options.seed, "noise", number).normal(0, noise_std, smooth.shape)
        image = (smooth + noise).round().clip(0, 255).astype(np.uint8)
        for folder in ("real_and_drawn", "drawn"):
            _write(options.place / folder, f"drawn_{number}", image, instances)
        if number < _SHOWN:
            shown += [Image.fromarray(image).convert("RGB"), overlay(image, instances)]
    make_image_grid(shown, rows=len(shown) // 4, cols=4).save(options.place / "drawn.png")


@torch.no_grad()
def grey_noise(vae: SDAutoencoderKL, folder: Path) -> float:
    """Measure the standard deviation of grey values around the decoded ones, from 0 to 255."""
    pictures = np.stack([np.asarray(Image.open(folder / f"{number}.png")) for number in range(200)])
    pixel_values = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(vae.device, torch.float32) / 127.5 - 1
    decoded = vae.decode(vae.encode(pixel_values).latent_dist.mode()).sample
    return 127.5 * float((decoded - pixel_values)[:, 0].square().mean().sqrt())


def _write(folder: Path, name: str, image: np.ndarray, instances: np.ndarray) -> None:
    for kind, values in (("images", image), ("labels", instances.astype(np.uint16))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / kind / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
