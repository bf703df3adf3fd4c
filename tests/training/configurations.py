"""Configurations and data sets for unit tests: tiny, and built without reading a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from tests.training.runs import tiny_config
from training.config import (
    AutoencoderConfig,
    CardConfig,
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    HubConfig,
    SegmentationConfig,
    TextEncoderConfig,
    TrainConfig,
)
from training.data.captioned_images import CaptionedImages
from training.data.digits import CANVAS_SIZE, DigitsSource
from training.data.image_source import SourceSubset

BLOCKS = {
    "data": DataConfig,
    "text_encoder": TextEncoderConfig,
    "autoencoder": AutoencoderConfig,
    "diffusion": DiffusionConfig,
    "segmentation": SegmentationConfig,
    "evaluation": EvaluationConfig,
    "card": CardConfig,
    "hub": HubConfig,
}

# A U-Net that attends to no text.
WITHOUT_TEXT = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def config_of(mapping: Mapping[str, Any]) -> TrainConfig:
    """Build a configuration from nested blocks."""
    blocks = {name: block_of(kind, mapping[name]) for name, kind in BLOCKS.items() if name in mapping}
    return TrainConfig(**{**mapping, **blocks})


def block_of(kind: type, mapping: Mapping[str, Any]) -> Any:
    """Build a block, and the blocks in it."""
    types = get_type_hints(kind)
    return kind(
        **{
            key: block_of(types[key], value) if dataclasses.is_dataclass(types.get(key)) and value else value
            for key, value in mapping.items()
        }
    )


def with_values(values: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Copy nested blocks with some keys, written `block.key`, set to other values."""
    changed = {key: dict(value) if isinstance(value, Mapping) else value for key, value in (base or {}).items()}
    for key, value in values.items():
        *blocks, name = key.split(".")
        place = changed
        for block in blocks:
            place[block] = dict(place.get(block, {}))
            place = place[block]
        place[name] = value
    return changed


def tiny_train_config(**values: Any) -> TrainConfig:
    """Build the configuration of a tiny run; keys are written `block__key`."""
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return config_of(with_values(dotted, tiny_config("unused")))


def some_digits(count: int, split: str = "train", **arguments: Any) -> CaptionedImages:
    """Take the first digits of a split."""
    return CaptionedImages(SourceSubset(DigitsSource(split), range(count)), CANVAS_SIZE, **arguments)
