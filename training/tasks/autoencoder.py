"""The second stage: the KL autoencoder, on the evidence lower bound (report, section 2) and what is added to it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import make_image_grid
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPModel

from sd_pipeline.latents import fold_latent_statistics
from sd_pipeline.stock_config import record_facts
from training.config import ConfigError, TrainConfig
from training.data.captioned_images import CaptionedImages, SampleKey
from training.data.held_out_draws import VALIDATION_IMAGES, fixed_noise
from training.data.pictures import to_picture
from training.engine.random_streams import standard_normal
from training.engine.task import Batch, Validation
from training.evaluation.reconstruction import compare_reconstructions
from training.tasks.autoencoder_loss import AutoencoderLoss
from training.tasks.components import build_discriminator, build_vae, downsampling_factor
from training.tasks.parameter_groups import decay_matrices_only
from training.tasks.perceptual_distance import MISSING_CLIP, load_perceptual_distance

_PICTURES = 8
# The statistics of the latents are measured on at most this many training images.
_STATISTICS_IMAGES = 10_000


class AutoencoderTask:
    """Trains the autoencoder, against a discriminator if asked; its export has standard latents.

    Args:
        config (`TrainConfig`): The run.
        dataset (`CaptionedImages`): Training images.
        validation_dataset (`CaptionedImages`, *optional*): Held-out ones.
        clip_folder (`Path`, *optional*): The CLIP of the run's contrastive text encoder, whose image tower compares
            images where the run names no other, and measures the distance of reconstructions.
        device (`torch.device`, *optional*): Where the frozen networks go.
    """

    name = "autoencoder"
    shardable = False
    num_timesteps = 0

    def __init__(
        self,
        config: TrainConfig,
        dataset: CaptionedImages,
        validation_dataset: CaptionedImages | None,
        clip_folder: Path | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.config = config
        self.pictures = dataset
        self.dataset: Dataset[Any] = dataset
        self.validation_dataset = validation_dataset
        torch.manual_seed(config.seed)
        self.vae = build_vae(config)
        if config.autoencoder.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        settings = config.autoencoder
        self.adversary = build_discriminator(settings.adversarial) if settings.adversarial.scale > 0 else None
        self.clip_folder = clip_folder
        perceptual = None
        if settings.perceptual.scale > 0:
            path = settings.perceptual.model_name_or_path or clip_folder
            if path is None:
                raise ConfigError(MISSING_CLIP)
            perceptual = load_perceptual_distance(path).to(device)
        self.model = AutoencoderLoss(self.vae, settings, perceptual, self.adversary)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups."""
        return decay_matrices_only(self.model)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack the images and draw the posterior's noise."""
        numbers = [sample["sample_number"] for sample in samples]
        pixel_values = torch.stack([sample["pixel_values"] for sample in samples])
        shape = self._shape_of_latents(pixel_values)
        return {
            "pixel_values": pixel_values,
            "noise": standard_normal(self.config.seed, "autoencoder/posterior", numbers, shape),
        }

    def _shape_of_latents(self, pixel_values: torch.Tensor) -> tuple[int, ...]:
        sides = [side // downsampling_factor(self.vae) for side in pixel_values.shape[-2:]]
        return (self.vae.config["latent_channels"], *sides)

    def adversary_parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of the discriminator's optimizer."""
        settings = self.config.autoencoder
        rate = settings.adversarial.learning_rate or settings.learning_rate
        return [] if self.adversary is None else decay_matrices_only(self.adversary, lr=rate)

    def prepare_batch(self, batch: Batch, step: int) -> Batch:
        """Say whether the discriminator takes part by now; what is frozen belongs to the loss."""
        has_started = step >= self.config.autoencoder.adversarial.start_step
        # In a validation it judges nothing: every training has another one.
        takes_part = self.adversary is not None and has_started and self.model.training
        return {**batch, "is_judged": torch.tensor(takes_part)}

    def adversary_batch(self, batch: Batch, outputs: Batch) -> Batch | None:
        """Hand images and reconstructions to the discriminator, once it takes part."""
        if not batch["is_judged"]:
            return None
        return {"real": batch["pixel_values"], "fake": outputs["decoded"].detach()}

    def sample_name(self, index: int) -> str:
        """Name a sample by its file, its row or its number."""
        return self.pictures.source.name(index)

    def validation_batches(self) -> Sequence[Callable[[], Batch]]:
        """Give the held-out images, as squares, with fixed noise of the posterior."""
        images = range(min(len(self.validation_dataset or []), VALIDATION_IMAGES))
        size = self.config.autoencoder.train_batch_size
        return [partial(self._held_out, images[first : first + size]) for first in range(0, len(images), size)]

    def _held_out(self, images: Sequence[int]) -> Batch:
        assert self.validation_dataset is not None  # Or there would be no images.
        dataset = self.validation_dataset.squares()
        pixel_values = torch.stack([dataset[image]["pixel_values"] for image in images])
        noise = fixed_noise("posterior", images, self._shape_of_latents(pixel_values))
        return {"pixel_values": pixel_values, "noise": noise}

    def validate(self, step: int) -> Validation:
        """Compare held-out images with their reconstructions through the posterior's mode, and draw some of them."""
        if not self.validation_dataset:
            return Validation()
        clip = None
        if self.clip_folder is not None:
            clip = CLIPModel.from_pretrained(self.clip_folder, use_safetensors=True)
            clip.to(self.vae.device)  # type: ignore[arg-type]
        count = min(len(self.validation_dataset), VALIDATION_IMAGES)
        metrics, pairs = compare_reconstructions(self.vae, self.validation_dataset, count, clip)
        shown = pairs[:_PICTURES]
        pictures = [to_picture(pair[side]) for side in (0, 1) for pair in shown]
        return Validation(metrics, {"reconstruction": make_image_grid(pictures, rows=2, cols=len(shown))})

    def export(self, folder: Path) -> None:
        """Measure the latents, fold their statistics and write `vae`, with the likelihood that it was trained with."""
        mean, std = self.latent_statistics()
        fold_latent_statistics(self.vae, mean, std)
        settings, log_std = self.config.autoencoder, self.model.log_std
        facts: dict[str, Any] = {"likelihood": settings.likelihood}
        if settings.likelihood != "bernoulli":
            facts["likelihood_std"] = settings.likelihood_std if log_std is None else float(log_std.detach().exp())
        record_facts(self.vae, **facts)
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
            latents = posterior.reparameterise(batch["noise"].to(self.vae.device))
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
