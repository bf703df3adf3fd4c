"""Training samples of a segmentation: tiles of annotated images, with the class and the weight of every pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from training.data.elastic_deformation import resampled
from training.data.labelled_source import LabelledSource
from training.data.labelled_tiles import (
    Augmentation,
    TileSize,
    centred_start,
    changed_grey_values,
    moved_places,
    random_start,
    tile_places,
)
from training.engine.random_streams import sample_rng


class LabelledSample(TypedDict):
    """One tile: what the network sees, and what of its middle is known."""

    pixel_values: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    index: int
    sample_number: int


class LabelledImages(Dataset[LabelledSample]):
    """Tiles of annotated images.

    A sample is a pure function of (seed, global sample number, index). Image, labels and weights are looked up at the
    same places; of labels and weights the nearest pixel is taken. Classes are told from the labels after that.

    Args:
        source (`LabelledSource`): Images and labels.
        size (`TileSize`): Of the tiles.
        pixel_values (callable): Makes `(channels, height, width)` floats of zero mean and unit variance of an image.
        classes (callable): Makes classes of labels, `(height, width)` integers both.
        border_weights (callable): Makes the border term of the weight map of labels, float32 of their shape.
        class_weights (`np.ndarray` of shape `(num_classes,)`): w_c.
        augmentation (`Augmentation`, *optional*): What is changed at random; without it, tiles lie in the middle of
            their images and are as these are.
        seed (`int`, defaults to 0): The seed of the run.
    """

    def __init__(
        self,
        source: LabelledSource,
        size: TileSize,
        *,
        pixel_values: Callable[[Any], torch.Tensor],
        classes: Callable[[np.ndarray], np.ndarray],
        border_weights: Callable[[np.ndarray], np.ndarray],
        class_weights: np.ndarray,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.source = source
        self.size = size
        self.pixel_values = pixel_values
        self.classes = classes
        self.border_weights = border_weights
        self.class_weights = class_weights
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int] | int) -> LabelledSample:
        """Make one sample.

        Args:
            key (`tuple[int, int]` or `int`): Global sample number and index of the image. A single number is both.

        Returns:
            `LabelledSample`: `pixel_values` (`torch.Tensor` of shape `(channels, input_size, input_size)`, float32),
            `labels` (of shape `(output_size, output_size)`, int64, in [0, num_classes)), `weights` (of that shape,
            float32), `index` and `sample_number`.
        """
        sample_number, index = key if isinstance(key, tuple) else (key, key)
        labels = self.source.labels(index)
        image = self.pixel_values(self.source.image(index)).permute(1, 2, 0).numpy()
        rng = sample_rng(self.seed, "augmentation", sample_number)
        places = self._places(rng, (labels.shape[0], labels.shape[1]))
        tile = resampled(image, places)
        if self.augmentation is not None:
            tile = changed_grey_values(rng, tile, self.augmentation.grey_value_std)
        known = places[:, self.size.middle, self.size.middle]
        of_pixels = self.classes(resampled(labels, known, is_label=True)).astype(np.int64)
        weights = self.class_weights[of_pixels] + resampled(self.border_weights(labels), known, is_label=True)
        return LabelledSample(
            pixel_values=torch.from_numpy(tile).permute(2, 0, 1).contiguous(),
            labels=torch.from_numpy(of_pixels),
            weights=torch.from_numpy(weights.astype(np.float32)),
            index=index,
            sample_number=sample_number,
        )

    def _places(self, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        output = self.size.output_size
        if self.augmentation is None:
            return tile_places((centred_start(shape[0], output), centred_start(shape[1], output)), self.size)
        starts = random_start(rng, shape[0], output), random_start(rng, shape[1], output)
        return moved_places(rng, tile_places(starts, self.size), self.augmentation)
