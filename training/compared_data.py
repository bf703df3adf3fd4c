"""The images that two models are compared on: those of the command line, or what the run of the first held out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_pipeline.pipelines.pipeline_base import SDBasePipeline
from training.config import DataConfig, TrainConfig
from training.config_io import check_keys, read_yaml
from training.data.captioned_images import CaptionedImages
from training.data.catalogue import load_captioned_images
from training.data.held_out_draws import VALIDATION_IMAGES


@dataclass(frozen=True)
class ComparedData:
    """Images, and how they are told of.

    Args:
        dataset (`CaptionedImages`): All as squares.
        num_images (`int`): How many of the first are looked at.
        protocol (`dict[str, Any]`): What JSON can hold.
    """

    dataset: CaptionedImages
    num_images: int
    protocol: dict[str, Any]

    def told(self, num_timesteps: int) -> str:
        """Tell of the images in a line, with the number of timesteps of each."""
        names = self.protocol
        return (
            f"{self.num_images} images of {names['dataset']}, {names['dataset_split']}, {names['resolution']} pixels, "
            f"each at {num_timesteps} timesteps; squared error of epsilon"
        )


def compared_data(options: argparse.Namespace, pipe: SDBasePipeline) -> ComparedData:
    """Load the images that the command line of `compare.py` asks for.

    Args:
        options (`argparse.Namespace`): The command line.
        pipe (`SDBasePipeline`): A model, both being of one size.

    Raises:
        ValueError: If no data set is named, it has too few images, B may have learned from them, or they have a size
            that the models cannot take.
    """
    run = None if options.dataset is not None else run_config(options.a)
    if run is None and options.dataset is None:
        raise ValueError(f"--dataset is missing: {options.a} is no folder of a run, whose data it would be")
    block = {} if run is None else dict(run["data"])
    resolution = options.resolution or block.get("resolution")
    *_, side = pipe.latents_shape(1, resolution, resolution)  # Refuses one that the models cannot take.
    block["resolution"] = side * pipe.vae_scale_factor
    for name in ("dataset", "image_column", "caption_column"):
        if getattr(options, name) is not None:
            block[name] = getattr(options, name)
    seed = 0 if run is None else run.get("seed", 0)
    if run is not None and options.dataset_split == "validation":
        _check_held_out(options, block, seed)
    arguments = DataConfig(**block).captioned()
    dataset = load_captioned_images(options.dataset_split, **arguments, seed=seed).squares()
    if len(dataset) < 2:
        raise ValueError(
            f"--dataset-split {options.dataset_split}: has {len(dataset)} images; allowed: splits of at least 2"
        )
    num_images = min(VALIDATION_IMAGES, len(dataset)) if options.num_images is None else options.num_images
    if not 2 <= num_images <= len(dataset):
        raise ValueError(f"--num-images {num_images}: allowed: 2 to {len(dataset)}, the split's images")
    told = ("dataset", "image_column", "caption_column", "resolution")
    protocol = {"dataset_split": options.dataset_split, **{name: arguments[name] for name in told}}
    return ComparedData(dataset, num_images, {**protocol, "num_images": num_images})


def run_config(place: str) -> dict[str, Any] | None:
    """Read the configuration of a run, if a place is the folder of one.

    Args:
        place (`str`): A folder, or a name.

    Raises:
        ConfigError: If its keys are not those of a configuration.
    """
    file = Path(place) / "config.yaml"
    if not file.is_file():
        return None
    config = read_yaml(file)
    check_keys(config, TrainConfig, file)
    return config


def _check_held_out(options: argparse.Namespace, block: Mapping[str, Any], seed: int) -> None:
    """Refuse images that the run of A held out, where that of B held out others of the same data."""
    other = run_config(options.b)
    if other is None or not block.get("validation_fraction") or other["data"].get("dataset") != block["dataset"]:
        return
    held_out = (block["validation_fraction"], seed)
    of_b = (other["data"].get("validation_fraction", 0.0), other.get("seed", 0))
    if of_b != held_out:
        raise ValueError(
            f"{options.b}: may have learned from the images that {options.a} held out: data.validation_fraction and "
            f"seed are {of_b[0]} and {of_b[1]}; allowed: {held_out[0]} and {held_out[1]}, or another --dataset"
        )
