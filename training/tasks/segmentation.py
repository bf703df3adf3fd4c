"""The segmentation stage: the U-Net of 2015 on tiles of annotated images (U-Net note; Ronneberger et al. 2015)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from sd_pipeline import SegmentationPipeline, SegmentationUNet
from sd_pipeline.pipelines.segmentation_overlay import overlay
from sd_pipeline.publishing.repository import check_finite
from training.config import TrainConfig
from training.data.label_rules import pixel_classes
from training.data.labelled_images import LabelledImages
from training.data.labelled_source import LabelledSource
from training.data.labelled_tiles import Augmentation
from training.engine.task import Batch, Validation, WithoutAdversary
from training.evaluation.segmentation_scores import scores_of, truth_of
from training.tasks.parameter_groups import decay_matrices_only
from training.tasks.segmentation_loss import weighted_cross_entropy
from training.tasks.segmentation_model import (
    build_segmentation_unet,
    pixel_values_of,
    tile_size,
    weight_maps,
)
from training.tasks.weight_map import class_balance
from training.tasks.weight_map_cache import WeightMapCache

VALIDATION_IMAGES = 20
"""At most so many held-out images are segmented whole at each validation."""
_PICTURES = 4


class SegmentationTask(WithoutAdversary):
    """Trains a `SegmentationUNet`; its export is the repository of a `SegmentationPipeline`.

    Args:
        config (`TrainConfig`): The run.
        source (`LabelledSource`): Annotated images to train on.
        held_out (`LabelledSource`, *optional*): Those of the validation.
    """

    name = "segmentation"
    shardable = False
    num_timesteps = 0

    def __init__(self, config: TrainConfig, source: LabelledSource, held_out: LabelledSource | None) -> None:
        self.config = config
        self.source, self.held_out = source, held_out
        torch.manual_seed(config.seed)
        self.unet = build_segmentation_unet(config)
        self.model = SegmentationLoss(self.unet)
        settings, maps = config.segmentation, weight_maps(config)
        to_classes = partial(pixel_classes, label_type=config.data.label_type)
        num_classes = self.unet.config["num_classes"]
        num_pixels = survey(source, maps, to_classes, num_classes)
        weights = class_balance(num_pixels) if settings.class_balance else np.ones(num_classes, dtype=np.float32)
        self._images = partial(
            LabelledImages,
            size=tile_size(config),
            pixel_values=partial(pixel_values_of, in_channels=self.unet.config["in_channels"]),
            classes=to_classes,
            border_weights=maps,
            class_weights=weights,
        )
        augmentation = Augmentation(
            settings.elastic_std, settings.max_rotation, config.data.random_flip, settings.grey_value_std
        )
        self.dataset: Dataset[Any] = self._images(source, augmentation=augmentation, seed=config.seed)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups."""
        return decay_matrices_only(self.model)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack the tiles; all that is random about them has been drawn."""
        return {key: torch.stack([sample[key] for sample in samples]) for key in ("pixel_values", "labels", "weights")}

    def prepare_batch(self, batch: Batch, step: int) -> Batch:
        """There is nothing frozen."""
        return batch

    def sample_name(self, index: int) -> str:
        """Name a sample by its file, row or page."""
        return self.source.name(index)

    def validation_batches(self) -> Sequence[Callable[[], Batch]]:
        """Give the middle of each held-out image, unchanged."""
        if not self.held_out:
            return []
        held_out = self._images(self.held_out)
        size = self.config.segmentation.train_batch_size
        numbers = range(min(len(held_out), VALIDATION_IMAGES))
        chunks = [numbers[first : first + size] for first in range(0, len(numbers), size)]
        return [partial(self._held_out_batch, held_out, chunk) for chunk in chunks]

    def _held_out_batch(self, held_out: LabelledImages, numbers: Sequence[int]) -> Batch:
        return self.collate([held_out[number] for number in numbers])

    def validate(self, step: int) -> Validation:
        """Segment held-out images whole, measure them, and draw some."""
        if not self.held_out:
            return Validation()
        pipe, label_type, num_classes = self.pipeline(), self.config.data.label_type, self.unet.config["num_classes"]
        measured, pictures = list[dict[str, float]](), list[Image.Image]()
        for index in range(min(len(self.held_out), VALIDATION_IMAGES)):
            image, labels = self.held_out.image(index), self.held_out.labels(index)
            found, instances = segment(pipe, image)
            measured.append(scores_of(found, truth_of(labels, label_type), num_classes).measures)
            if index < _PICTURES:
                pictures.append(overlay(image, instances))
        defined = {key: [one[key] for one in measured if not math.isnan(one[key])] for key in measured[0]}
        means = {key: float(np.mean(values)) for key, values in defined.items() if values}
        sheet = make_image_grid([picture.resize(pictures[0].size) for picture in pictures], 1, len(pictures))
        return Validation(means, {"segmentation": sheet})

    def pipeline(self) -> SegmentationPipeline:
        """Return the pipeline of the network as it stands."""
        pipe = SegmentationPipeline(unet=self.unet, class_names=self.config.segmentation.class_names)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def export(self, folder: Path) -> None:
        """Write the finished repository."""
        check_finite("unet", self.unet)
        self.pipeline().save_pretrained(folder)


def segment(pipe: SegmentationPipeline, image: Image.Image | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segment one image.

    Args:
        pipe (`SegmentationPipeline`): The pipeline.
        image (`PIL.Image.Image` or `np.ndarray`): Of any size.

    Returns:
        Two `np.ndarray` of shape `(height, width)`: classes and instances.
    """
    output: Any = pipe(image)
    return output.labels[0], output.instances[0]


def survey(
    source: LabelledSource, maps: WeightMapCache, classes: Callable[[np.ndarray], np.ndarray], num_classes: int
) -> np.ndarray:
    """Compute all weight maps on all cores, so that they are in files when training begins, and count the classes.

    Args:
        source (`LabelledSource`): The training images.
        maps (`WeightMapCache`): Where the maps are kept.
        classes (callable): Makes classes of labels.
        num_classes (`int`): How many there are.

    Returns:
        `np.ndarray` of shape `(num_classes,)`, int64: pixels of each class.
    """

    def look(index: int) -> np.ndarray:
        labels = source.labels(index)
        maps(labels)
        return np.bincount(classes(labels).ravel(), minlength=num_classes)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return sum(pool.map(look, range(len(source))), np.zeros(num_classes, dtype=np.int64))


class SegmentationLoss(nn.Module):
    """The network with its loss.

    Args:
        unet (`SegmentationUNet`): The network.
    """

    def __init__(self, unet: SegmentationUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> Batch:
        """Compute the weighted cross-entropy of every tile, a pixel.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, in_channels, input_size, input_size)`): Standardised.
            labels (`torch.LongTensor` of shape `(batch_size, output_size, output_size)`): Classes.
            weights (`torch.Tensor` of that shape): Of the pixels.

        Returns:
            `dict` of `torch.Tensor` of shape `(batch_size,)`: `loss`, weighted nats a pixel, which is the energy of
            the paper divided by the number of pixels, and `pixel_error`, the share of pixels of another class.
        """
        logits = self.unet(pixel_values).logits
        loss = weighted_cross_entropy(logits, labels, weights) / labels[0].numel()
        wrong = logits.detach().argmax(dim=1) != labels
        return {"loss": loss, "pixel_error": wrong.float().flatten(1).mean(1)}
