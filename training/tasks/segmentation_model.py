"""The segmentation U-Net that a configuration describes, and the tiles that fit it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from sd_pipeline import SegmentationUNet
from sd_pipeline.models.segmentation_sizes import output_size
from sd_pipeline.pipelines.segmentation_inputs import read_images, standardise
from sd_pipeline.pipelines.segmentation_maps import connected_components
from training.config import ConfigError, TrainConfig
from training.data.labelled_tiles import TileSize
from training.tasks.components import build
from training.tasks.weight_map_cache import WeightMapCache


def build_segmentation_unet(config: TrainConfig) -> SegmentationUNet:
    """Build the network with random weights.

    Raises:
        ConfigError: If its keys are impossible.
    """
    return build("segmentation.unet", SegmentationUNet, config.segmentation.unet)


def tile_size(config: TrainConfig) -> TileSize:
    """Tell the tiles of training, whose input has `data.resolution`.

    Raises:
        ConfigError: If it does not fit the network.
    """
    with torch.device("meta"):
        unet = build_segmentation_unet(config).config
    num_levels, is_padded = len(unet["block_out_channels"]), unet["is_padded"]
    arguments = {"size": config.data.resolution, "num_levels": num_levels, "is_padded": is_padded}
    return TileSize(config.data.resolution, build("data.resolution", output_size, arguments))


def check_segmentation(config: TrainConfig) -> None:
    """Build the network on the meta device, without memory or time, and see whether all fits together.

    Raises:
        ConfigError: Names the key at fault.
    """
    tile_size(config)
    with torch.device("meta"):
        num_classes = build_segmentation_unet(config).config["num_classes"]
    names, label_type = config.segmentation.class_names, config.data.label_type
    if label_type == "instances" and num_classes != 2:
        raise ConfigError(
            f"segmentation.unet.num_classes = {num_classes}: must be 2 with data.label_type 'instances': background "
            "and objects"
        )
    if names is not None and len(names) != num_classes:
        raise ConfigError(f"segmentation.class_names = {names}: must be {num_classes} names, or null")


def pixel_values_of(image: Any, in_channels: int) -> torch.Tensor:
    """Read an image as `SegmentationPipeline` does: with zero mean and unit variance.

    Args:
        image (`PIL.Image.Image` or `np.ndarray`): Of any size.
        in_channels (`int`): Channels of the network.

    Returns:
        `torch.Tensor` of shape `(in_channels, height, width)`, float32.

    Raises:
        ValueError: If it cannot be used.
    """
    return standardise(read_images(image, in_channels)[0], None, None)


def cells_of(labels: np.ndarray, label_type: str) -> np.ndarray:
    """Tell which cell each pixel belongs to: of classes, a cell is what is connected."""
    return labels if label_type == "instances" else connected_components(labels)


def weight_maps(config: TrainConfig) -> WeightMapCache:
    """Make the border terms of the run, which are kept in its folder."""
    settings = config.segmentation
    cells = partial(cells_of, label_type=config.data.label_type)
    return WeightMapCache(config.weight_map_dir, settings.border_weight, settings.border_sigma, cells)
