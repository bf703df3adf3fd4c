"""The code length of single images under a finished pipeline: every term of the sum, with and without the caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sd_pipeline import SDDDPMScheduler
from sd_pipeline.pipelines.pipeline_base import SDBasePipeline
from sd_pipeline.pipelines.prompt_encoding import encode_prompts
from sd_pipeline.pipelines.scheduler_use import check_variance_type
from sd_pipeline.schedulers.bound_of_schedule import BoundOfSchedule
from training.data.captioned_images import CaptionedSample
from training.evaluation.likelihood import (
    Predict,
    all_terms,
    code_lengths,
    drawn_timesteps,
    term_of_timestep,
)
from training.evaluation.pixel_likelihoods import PixelLikelihood
from training.evaluation.suite import Call

WITH_CAPTION, WITHOUT_CAPTION = "with its caption", "without a caption"


@dataclass(frozen=True, slots=True)
class ImageBits:
    """The terms of one image, in nats. Without an autoencoder there is no reconstruction and no posterior.

    Args:
        reconstruction (`float`, *optional*): -ln p(x|z), the autoencoder's distortion.
        posterior (`float`, *optional*): ln q(z|x).
        divergence (`float`, *optional*): KL(q(z|x) || p(z)) to the autoencoder's own prior, where it is recorded.
        prior (`float`): L_T.
        decoder (`dict[str, float]`): L_0, by condition.
        steps (`dict[str, float]`): The sum of all other terms, or an unbiased estimate of it, by condition.
        curves (`dict[str, np.ndarray]`): Every term by timestep, where all were computed, by condition.
    """

    reconstruction: float | None
    posterior: float | None
    divergence: float | None
    prior: float
    decoder: dict[str, float]
    steps: dict[str, float]
    curves: dict[str, np.ndarray]

    def rate(self, condition: str) -> float:
        """Give what the latents cost: posterior, L_T and all other divergences, and L_0 where z is no pixel."""
        latents = self.prior + self.steps[condition]
        return latents if self.posterior is None else latents + self.posterior + self.decoder[condition]

    def distortion(self, condition: str) -> float:
        """Give what the pixels cost once the latents are known: in pixel space, L_0."""
        return self.decoder[condition] if self.reconstruction is None else self.reconstruction

    def total(self, condition: str) -> float:
        """Give the upper bound of -ln p(x), the sum of all terms."""
        return self.rate(condition) + self.distortion(condition)


class ImageNoise:
    """The noise of a batch of images, one draw after the other: a function of the seed and an image's index alone.

    Args:
        call (`Call`): Whose seed it is.
        indices (sequence of `int`): The images.
        shape (sequence of `int`): Of what is diffused.
        device (`torch.device`): Where it goes.

    Attributes:
        posterior (`torch.Tensor` of shape `(batch_size, *shape)`): Standard normal, drawn first.
    """

    def __init__(self, call: Call, indices: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        self._generators = [call.generator(index) for index in indices]
        self._shape = tuple(shape)
        self._device = device
        self.posterior = self.next()

    def next(self) -> torch.Tensor:
        """Draw standard normal noise, of shape `(batch_size, *shape)`."""
        drawn = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(self._device)

    def uniform(self) -> torch.Tensor:
        """Draw a number in [0, 1) for each image, float64."""
        return torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self._generators])


class BitsOfPipeline:
    """Measures images under a pipeline, both conditions with the same noise.

    Args:
        pipe (`SDBasePipeline`): The model.
        likelihood (`PixelLikelihood`, *optional*): p(x|z) of its autoencoder; none in pixel space.
        call (`Call`): Its seed names the noise.
        variance_type (`str`, *optional*): Of the reverse steps; by default that of the pipeline's scheduler.

    Raises:
        ValueError: If the model inpaints, or such a variance is not its own.
    """

    def __init__(
        self,
        pipe: SDBasePipeline,
        likelihood: PixelLikelihood | None,
        call: Call,
        variance_type: str | None = None,
    ) -> None:
        if pipe.is_inpainting_model:
            raise ValueError("--suite bits: the model inpaints, which is no distribution of whole images")
        changes: dict[str, Any] = {} if variance_type is None else {"variance_type": variance_type}
        if pipe.vae is not None:
            changes |= {"clip_sample": False, "thresholding": False}
        scheduler = SDDDPMScheduler.from_config(pipe.scheduler.config, **changes)
        check_variance_type(scheduler, pipe.unet.config["out_channels"] == 2 * pipe.num_latent_channels)
        self.pipe = pipe
        self.likelihood = likelihood
        self.call = call
        self.bound = BoundOfSchedule(scheduler, "discretised" if pipe.vae is None else "gaussian")
        self.conditions = (WITH_CAPTION, WITHOUT_CAPTION) if pipe.takes_prompts else (WITHOUT_CAPTION,)

    @torch.no_grad()
    def measure(
        self, samples: Sequence[CaptionedSample], probabilities: torch.Tensor | None = None, num_timesteps: int = 0
    ) -> list[ImageBits]:
        """Measure some images.

        Args:
            samples (sequence of `CaptionedSample`): The images, of one size.
            probabilities (`torch.Tensor` of shape `(num_train_timesteps,)`, *optional*):
                Draw timesteps with these, that of timestep 0 being 0; by default all are computed.
            num_timesteps (`int`, defaults to 0): How many to draw for each image.

        Returns:
            `list[ImageBits]`: One an image.
        """
        device = self.pipe.unet.device
        pixel_values = torch.stack([sample["pixel_values"] for sample in samples]).to(device)
        _, *shape = self.pipe.latents_shape(1, *pixel_values.shape[-2:])
        indices = [sample["index"] for sample in samples]
        lengths = None
        if self.pipe.vae is not None and self.likelihood is not None:
            noise = ImageNoise(self.call, indices, shape, device)
            lengths = code_lengths(self.pipe.vae, pixel_values, noise.posterior, self.likelihood)
        x_0 = pixel_values if lengths is None else lengths.latents
        found: list[dict[str, Any]] = [{"decoder": {}, "steps": {}, "curves": {}} for _ in samples]
        for condition in self.conditions:
            predict = self._network([s["caption"] if condition == WITH_CAPTION else "" for s in samples])
            noise = ImageNoise(self.call, indices, shape, device)
            if probabilities is None:
                curves = all_terms(self.bound, predict, x_0, noise.next)
                decoder, steps = curves[:, 0], curves[:, 1:].sum(1)
                for terms, curve in zip(found, curves.cpu().numpy(), strict=True):
                    terms["curves"][condition] = curve
            else:
                zeros = torch.zeros(len(samples), dtype=torch.int64, device=device)
                decoder = term_of_timestep(self.bound, predict, x_0, noise.next(), zeros)
                steps = self._estimate(predict, x_0, noise, probabilities, num_timesteps)
            for terms, first, rest in zip(found, decoder.tolist(), steps.tolist(), strict=True):
                terms["decoder"][condition], terms["steps"][condition] = first, rest
        columns: dict[str, list[Any]] = {
            name: [None] * len(samples) for name in ("reconstruction", "posterior", "divergence")
        }
        if lengths is not None:
            values = {name: getattr(lengths, name) for name in columns}
            columns |= {name: value.tolist() for name, value in values.items() if value is not None}
        columns["prior"] = self.bound.prior(x_0.double()).tolist()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [ImageBits(**row, **terms) for row, terms in zip(rows, found, strict=True)]

    def _estimate(
        self,
        predict: Predict,
        x_0: torch.Tensor,
        noise: ImageNoise,
        probabilities: torch.Tensor,
        num_timesteps: int,
    ) -> torch.Tensor:
        """Estimate the sum of the terms: the mean of term / probability over strata of the timesteps' distribution."""
        total = torch.zeros(len(x_0), dtype=torch.float64, device=x_0.device)
        for number in range(num_timesteps):
            timesteps = drawn_timesteps(probabilities, (number + noise.uniform()) / num_timesteps)
            terms = term_of_timestep(self.bound, predict, x_0, noise.next(), timesteps.to(x_0.device))
            total += terms / probabilities[timesteps].to(x_0.device)
        return total / num_timesteps

    def _network(self, captions: list[str]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        unet, hidden_states = self.pipe.unet, None
        if self.pipe.takes_prompts:
            hidden_states = encode_prompts(captions, self.pipe.tokenizer, self.pipe.text_encoder).to(unet.dtype)
        return lambda x_t, timesteps: unet(x_t.to(unet.dtype), timesteps, hidden_states).sample
