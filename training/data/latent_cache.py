"""Posteriors of a whole data set, encoded once: what a diffusion model trains on when images are not augmented."""

from __future__ import annotations

from typing import TypedDict

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from sd_pipeline import SDAutoencoderKL
from training.data.captioned_images import CaptionedImages, SampleKey


class LatentSample(TypedDict):
    """One sample: `latent_mean` and `latent_std` are float32 of shape `(latent_channels, height, width)`."""

    latent_mean: torch.Tensor
    latent_std: torch.Tensor
    caption: str
    index: int
    sample_number: int


class CachedLatents(Dataset[LatentSample]):
    """The posterior mean and standard deviation of every image, in memory; sampling them stays stochastic.

    Args:
        dataset (`CaptionedImages`): Images that do not depend on the sample number: no random crop, no flip.
        vae (`SDAutoencoderKL`): Encodes them, on its device.
        batch_size (`int`, defaults to 32): Images encoded at a time. It is no setting of the run, so that the
            posteriors, to the bit, depend on nothing else.
        show_progress (`bool`, defaults to `False`): Draw a progress bar.

    Raises:
        ValueError: If the images are augmented.
    """

    def __init__(
        self, dataset: CaptionedImages, vae: SDAutoencoderKL, batch_size: int = 32, show_progress: bool = False
    ) -> None:
        if dataset.random_flip or not dataset.center_crop:
            raise ValueError("cached latents need images that are always the same: center_crop on, random_flip off")
        self.dataset = dataset
        processes = PartialState()
        side = dataset.resolution // 2 ** (len(vae.config["block_out_channels"]) - 1)
        posteriors = torch.zeros(2, len(dataset), vae.config["latent_channels"], side, side)
        # The processes deal the batches out; where another one encodes, zeros wait for the sum.
        batches = torch.arange(len(dataset)).split(batch_size)[processes.process_index :: processes.num_processes]
        loader = DataLoader(dataset, batch_sampler=[batch.tolist() for batch in batches], collate_fn=_stack)
        progress = tqdm(loader, desc="encoding", unit="batch", disable=not show_progress)
        with torch.no_grad():
            for rows, pixel_values in zip(batches, progress, strict=True):
                posterior = vae.encode(pixel_values.to(vae.device)).latent_dist
                posteriors[0, rows], posteriors[1, rows] = posterior.mean.float().cpu(), posterior.std.float().cpu()
        if processes.num_processes > 1:
            posteriors = reduce(posteriors.to(processes.device), "sum").cpu()
        self.means, self.stds = posteriors

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> LatentSample:
        sample_number, index = key
        return LatentSample(
            latent_mean=self.means[index],
            latent_std=self.stds[index],
            caption=self.dataset.caption(sample_number, index),
            index=index,
            sample_number=sample_number,
        )


def _stack(samples: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.stack([sample["pixel_values"] for sample in samples])
