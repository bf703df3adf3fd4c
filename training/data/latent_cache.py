"""Posteriors of a whole data set, encoded once: what a diffusion model trains on when images are not augmented."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import torch
from torch.utils.data import Dataset

from sd_pipeline import SDAutoencoderKL
from training.data.captioned_images import CaptionedImages, SampleKey
from training.data.errors import DataError
from training.data.latent_building import build_cache
from training.data.latent_shards import open_shard


class LatentSample(TypedDict):
    """One sample: `latent_mean` and `latent_std` are float32 of shape `(latent_channels, height, width)`."""

    latent_mean: torch.Tensor
    latent_std: torch.Tensor
    caption: str
    index: int
    sample_number: int


class CachedLatents(Dataset[LatentSample]):
    """The posterior mean and standard deviation of every image, on disk; sampling them stays stochastic.

    What is missing of the cache is built first, by all processes. Its files are mapped into memory, so that it may be
    larger than that, and workers of a `DataLoader` share it.

    Args:
        dataset (`CaptionedImages`): Images that do not depend on the sample number: no random crop, no flip.
        vae (`SDAutoencoderKL`): Encodes them, on its device.
        folder (`Path`): The cache's folder, the same for all processes. One that holds a cache of another
            autoencoder, other images or other transforms is refused, and so is one that holds other things.
        num_workers (`int`, defaults to 0): Processes that read images for each process that encodes them.

    Raises:
        DataError: If the images are augmented, the folder holds something else or cannot be written, or an image
            cannot be read.
        OSError: If the disk is full. What is built stays.
        RunStopped: If a signal came. What is built stays.
    """

    def __init__(
        self,
        dataset: CaptionedImages,
        vae: SDAutoencoderKL,
        folder: Path,
        *,
        num_workers: int = 0,
    ) -> None:
        if dataset.random_flip or not dataset.center_crop:
            raise DataError("cached latents need images that are always the same: center_crop on, random_flip off")
        self.dataset = dataset
        self.folder = folder
        self.identity = build_cache(folder, dataset, vae, num_workers=num_workers)
        self._shards: dict[int, dict[str, torch.Tensor]] = {}

    def __len__(self) -> int:
        return self.identity.num_images

    def __getitem__(self, key: SampleKey) -> LatentSample:
        sample_number, index = key
        shard, row = divmod(index, self.identity.images_per_shard)
        if shard not in self._shards:
            self._shards[shard] = open_shard(self.folder, self.identity, shard)
        tensors = self._shards[shard]
        return LatentSample(
            latent_mean=tensors["mean"][row].clone(),
            latent_std=torch.exp(0.5 * tensors["logvar"][row]),
            caption=self.dataset.caption(sample_number, index),
            index=index,
            sample_number=sample_number,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped files out, whose content would be copied: a worker that is not forked maps them anew."""
        return {**self.__dict__, "_shards": {}}
