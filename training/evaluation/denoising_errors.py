"""The denoising errors of models that share their latents: every image at the same timesteps with the same noise.

Latents are modes of the posterior. A model that was trained on modes takes what a sample adds for noise of the image,
and has errors beyond all measure; one that was trained on samples does better on modes than on samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sd_pipeline.latents import scale_latents
from sd_pipeline.models.inpainting_channels import latent_mask
from sd_pipeline.pipelines.pipeline_base import SDBasePipeline
from sd_pipeline.pipelines.prompt_encoding import encode_prompts
from training.data.captioned_images import CaptionedImages
from training.data.held_out_draws import diffusion_noise, fixed_caption, fixed_masks, fixed_timesteps
from training.evaluation.comparable_models import schedule_of
from training.evaluation.paired_comparison import epsilon_errors


@dataclass(frozen=True, slots=True)
class ImageErrors:
    """What was measured of one image.

    Args:
        timesteps (`list[int]`): At which, ascending.
        errors (`list[list[float]]`): Of each model, the squared error of epsilon at each of them.
    """

    timesteps: list[int]
    errors: list[list[float]]


class DenoisingErrors:
    """Measures models that `check_comparable` has let pass.

    Args:
        pipes (sequence of `SDBasePipeline`): The models, on the device; the first one's autoencoder encodes.
        dataset (`CaptionedImages`): The images, of one size.
        num_timesteps (`int`): At how many timesteps each image is looked at.
    """

    def __init__(self, pipes: Sequence[SDBasePipeline], dataset: CaptionedImages, num_timesteps: int) -> None:
        self.pipes = list(pipes)
        self.dataset = dataset
        self.num_timesteps = num_timesteps
        self.schedules = [schedule_of(pipe) for pipe in pipes]

    @torch.no_grad()
    def measure(self, images: Sequence[int]) -> list[ImageErrors]:
        """Measure some images.

        Args:
            images (sequence of `int`): Their numbers in the data set, which key all noise.

        Returns:
            `list[ImageErrors]`: One an image.
        """
        samples = [self.dataset[image] for image in images]
        pixel_values = torch.stack([sample["pixel_values"] for sample in samples]).to(self.pipes[0].unet.device)
        captions = [fixed_caption(self.dataset, sample["index"]) for sample in samples]
        latents = self._encode(pixel_values)
        added = self._added_channels(pixel_values, images) if self.pipes[0].is_inpainting_model else None
        networks = [_network(pipe, captions, added) for pipe in self.pipes]
        timesteps = fixed_timesteps(images, self.num_timesteps, len(self.schedules[0]))
        errors = torch.empty(len(self.pipes), len(images), self.num_timesteps, dtype=torch.float64)
        for stratum in range(self.num_timesteps):
            noise = diffusion_noise(images, [stratum] * len(images), latents.shape[1:]).to(latents.device)
            at = timesteps[:, stratum].to(latents.device)
            for number, (schedule, predict) in enumerate(zip(self.schedules, networks, strict=True)):
                errors[number, :, stratum] = epsilon_errors(schedule, predict, latents, noise, at).cpu()
        rows = zip(timesteps.tolist(), errors.transpose(0, 1).tolist(), strict=True)
        return [ImageErrors(at, of_models) for at, of_models in rows]

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        vae = self.pipes[0].vae
        return pixel_values if vae is None else scale_latents(vae.encode(pixel_values).latent_dist.mode(), vae.config)

    def _added_channels(self, pixel_values: torch.Tensor, images: Sequence[int]) -> torch.Tensor:
        mask = fixed_masks(images, *pixel_values.shape[-2:]).to(pixel_values.device)
        masked = self._encode(pixel_values * (1 - mask))
        return torch.cat([latent_mask(mask, self.pipes[0].vae_scale_factor), masked], dim=1)


def _network(
    pipe: SDBasePipeline, captions: list[str], added: torch.Tensor | None
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Give a U-Net as a function of x_t and timesteps."""
    hidden_states = None
    if pipe.takes_prompts:
        hidden_states = encode_prompts(captions, pipe.tokenizer, pipe.text_encoder)

    def predict(x_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen = x_t if added is None else torch.cat([x_t, added], dim=1)
        output: torch.Tensor = pipe.unet(seen, timesteps, hidden_states).sample
        return output

    return predict
