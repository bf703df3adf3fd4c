"""The second stage: the KL autoencoder, trained on the evidence lower bound (report, section 2)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import make_image_grid
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from sd_pipeline import SDAutoencoderKL
from sd_pipeline.latents import fold_latent_statistics
from training.config import AutoencoderConfig, TrainConfig
from training.data.captioned_images import CaptionedImages, SampleKey
from training.data.pictures import to_picture
from training.engine.random_streams import standard_normal
from training.engine.task import Batch, Validation, WithoutAdversary
from training.evaluation.reconstruction import psnr, reconstruct
from training.tasks.components import build_vae, downsampling_factor
from training.tasks.losses import bernoulli_nll, gaussian_nll
from training.tasks.parameter_groups import decay_matrices_only

_VALIDATION_IMAGES = 256
_PICTURES = 8
# The statistics of the latents are measured on at most this many training images.
_STATISTICS_IMAGES = 10_000


class EvidenceLowerBound(torch.nn.Module):
    """The autoencoder with its loss: the negative evidence lower bound (report eq. 8), in nats a pixel value.

    Args:
        vae (`SDAutoencoderKL`): The autoencoder.
        config (`AutoencoderConfig`): Likelihood and factor of the KL divergence.
    """

    def __init__(self, vae: SDAutoencoderKL, config: AutoencoderConfig) -> None:
        super().__init__()
        self.vae = vae
        self.config = config

    def forward(self, pixel_values: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode, reparameterise (report eq. 11), decode.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`): In [-1, 1].
            noise (`torch.Tensor` of the latents' shape): Standard normal.

        Returns:
            `dict` of tensors of shape `(batch_size,)`: `"loss"`, and its parts `"reconstruction"` and `"kl"`.
        """
        posterior = self.vae.encode(pixel_values).latent_dist
        latents = posterior.mean + posterior.std * noise
        decoded = self.vae.decode(latents.to(pixel_values.dtype)).sample
        num_values = pixel_values[0].numel()
        if self.config.likelihood == "gaussian":
            reconstruction = gaussian_nll(pixel_values, decoded, self.config.likelihood_std) / num_values
        else:
            reconstruction = bernoulli_nll(pixel_values, decoded) / num_values
        kl = posterior.kl() / num_values
        return {"loss": reconstruction + self.config.kl_scale * kl, "reconstruction": reconstruction, "kl": kl}


class AutoencoderTask(WithoutAdversary):
    """Trains the autoencoder; its export has standard latents.

    Args:
        config (`TrainConfig`): The run.
        dataset (`CaptionedImages`): Training images.
        validation_dataset (`CaptionedImages`, *optional*): Held-out ones.
    """

    name = "autoencoder"
    shardable = False

    def __init__(
        self, config: TrainConfig, dataset: CaptionedImages, validation_dataset: CaptionedImages | None
    ) -> None:
        self.config = config
        self.pictures = dataset
        self.dataset: Dataset[Any] = dataset
        self.validation_dataset = validation_dataset
        torch.manual_seed(config.seed)
        self.vae = build_vae(config)
        if config.autoencoder.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        self.model = EvidenceLowerBound(self.vae, config.autoencoder)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups."""
        return decay_matrices_only(self.model)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack the images and draw the posterior's noise."""
        numbers = [sample["sample_number"] for sample in samples]
        pixel_values = torch.stack([sample["pixel_values"] for sample in samples])
        sides = [side // downsampling_factor(self.vae) for side in pixel_values.shape[-2:]]
        shape = (self.vae.config["latent_channels"], *sides)
        return {
            "pixel_values": pixel_values,
            "noise": standard_normal(self.config.seed, "autoencoder/posterior", numbers, shape),
        }

    def prepare_batch(self, batch: Batch, step: int) -> Batch:
        """Nothing here is frozen."""
        return batch

    def sample_name(self, index: int) -> str:
        """Name a sample by its file, its row or its number."""
        return self.pictures.source.name(index)

    def validate(self, step: int) -> Validation:
        """Measure the PSNR of held-out images through the posterior's mode, and draw some of them."""
        if not self.validation_dataset:
            return Validation()
        count = min(len(self.validation_dataset), _VALIDATION_IMAGES)
        originals = torch.stack([self.validation_dataset[index]["pixel_values"] for index in range(count)])
        decoded = reconstruct(self.vae, originals)
        pictures = [to_picture(image) for image in (*originals[:_PICTURES], *decoded[:_PICTURES])]
        grid: Image.Image = make_image_grid(pictures, rows=2, cols=len(pictures) // 2)
        return Validation({"psnr": float(psnr(decoded, originals).mean())}, {"reconstruction": grid})

    def export(self, folder: Path) -> None:
        """Measure the latents, fold their statistics and write `vae`."""
        mean, std = self.latent_statistics()
        fold_latent_statistics(self.vae, mean, std)
        self.vae.save_pretrained(folder / "vae")

    @torch.no_grad()
    def latent_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Measure mean and standard deviation of sampled latents, one a channel.

        A posterior of one variance an image keeps it in the folded coordinates only if all channels are divided by
        one number; then that is their root mean square deviation.

        Returns:
            Two `torch.Tensor` of shape `(latent_channels,)`, float64.
        """
        loader = DataLoader(self.dataset, batch_sampler=self._statistics_batches(), collate_fn=self.collate)
        total = torch.zeros(self.vae.config["latent_channels"], dtype=torch.float64)
        squares, places = torch.zeros_like(total), 0
        lowest, highest = math.inf, -math.inf
        for batch in loader:
            posterior = self.vae.encode(batch["pixel_values"].to(self.vae.device)).latent_dist
            latents = posterior.mean + posterior.std * batch["noise"].to(self.vae.device)
            channels = latents.transpose(0, 1).flatten(1).double().cpu()
            total += channels.sum(1)
            squares += channels.square().sum(1)
            places += channels.shape[1]
            lowest = min(lowest, float(posterior.logvar.min()))
            highest = max(highest, float(posterior.logvar.max()))
        mean = total / places
        variance = (squares / places - mean.square()).clamp(min=1e-12)
        if self.vae.config["posterior"] == "isotropic":
            variance = variance.mean().expand_as(variance)
        std = variance.sqrt()
        # The posterior clamps its log-variance to [-30, 20] before as well as after folding, which subtracts 2 ln std.
        shift = 2 * std.log()
        if lowest <= -30 + max(0.0, float(shift.max())) or highest >= 20 + min(0.0, float(shift.min())):
            warnings.warn(
                f"log-variances of the posterior reach from {lowest:.1f} to {highest:.1f}, where they are clamped: "
                "sampled latents of the exported autoencoder differ from those it was trained with",
                stacklevel=2,
            )
        return mean, std

    def _statistics_batches(self) -> list[list[SampleKey]]:
        """Spread the images to measure over the data set, and put those of one shape together."""
        count = min(len(self.pictures), _STATISTICS_IMAGES)
        stride = len(self.pictures) / count
        of_size: dict[tuple[int, int], list[SampleKey]] = {}
        for number in range(count):
            index = math.floor(number * stride)
            of_size.setdefault(self.pictures.sample_size(index), []).append((number, index))
        return [keys[i : i + 32] for keys in of_size.values() for i in range(0, len(keys), 32)]
