"""The denoising loop: the one loop of every task, and the guidance inside it.

A task (text-to-image, image-to-image, inpainting, outpainting) is a way to build `DenoisingInputs`; from there on all
are alike. How prompts become embeddings, and latents images, is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sd_pipeline.pipelines.known_region import KnownRegion
from sd_pipeline.pipelines.prediction import Predictor, repeat_batch
from sd_pipeline.pipelines.scheduler_use import Scheduler, step_arguments
from sd_pipeline.pipelines.windows import predict_in_windows


@dataclass(frozen=True)
class DenoisingInputs:
    """Where the loop stands: latents, and all that turns them into the next ones.

    Args:
        latents (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
            x_t at the noise level of the first of `timesteps`. Floating point.
        timesteps (`torch.Tensor` of shape `(num_timesteps,)`): Steps to take, from noise to image, as the scheduler
            set them.
        encoder_hidden_states (`torch.Tensor` of shape `(batch_size, length, cross_attention_dim)`, *optional*):
            Embeddings of the prompts. With guidance `(2 * batch_size, length, cross_attention_dim)`, those of the
            negative prompts first. `None` for an unconditional model.
        guidance_scale (`float`, defaults to 1.0): w of `guide`. Up to 1 there is no guidance.
        guidance_rescale (`float`, defaults to 0.0): phi of `rescale_guided`, in [0, 1].
        eta (`float`, defaults to 0.0): Share of DDPM's noise that DDIM adds, in [0, 1]. Other schedulers ignore it.
        generator (`torch.Generator` or a sequence of `batch_size` of them, *optional*): Where steps draw noise from.
        cross_attention_kwargs (`dict[str, Any]`, *optional*): Passed to the attention processors of the U-Net.
        added_channels (`torch.Tensor` of shape `(batch_size, 1 + num_channels, height, width)`, *optional*):
            For U-Nets that are trained to inpaint: the mask, and the latents of the masked image. They stand after
            `latents` in the U-Net's input and stay as they are.
        known (`KnownRegion`, *optional*): What is put back after each step.
        window (`tuple[int, int]`, *optional*): Height and width of the windows through which the U-Net sees latents
            that are larger. `None` shows it everything at once.
        interrupted (`bool`, defaults to `False`): Whether to stop with the latents as they are.
        num_callbacks (`int`, defaults to 0): How often somebody else's code has run since the start, which may have
            changed more than these: the U-Net, or tensors in place.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    encoder_hidden_states: torch.Tensor | None = None
    guidance_scale: float = 1.0
    guidance_rescale: float = 0.0
    eta: float = 0.0
    generator: torch.Generator | Sequence[torch.Generator] | None = None
    cross_attention_kwargs: dict[str, Any] | None = None
    added_channels: torch.Tensor | None = None
    known: KnownRegion | None = None
    window: tuple[int, int] | None = None
    interrupted: bool = False
    num_callbacks: int = 0

    @property
    def is_guided(self) -> bool:
        """Whether each step asks the U-Net twice: about the negative prompt and about the prompt."""
        return self.guidance_scale > 1 and self.encoder_hidden_states is not None

    @property
    def copies(self) -> int:
        """How many predictions a step needs for each of the latents."""
        return 2 if self.is_guided else 1


AfterStep = Callable[[int, torch.Tensor, DenoisingInputs], DenoisingInputs]
"""Called with the number of the step, its timestep and what it led to; returns what the next step starts from."""


def denoise(
    unet: nn.Module,
    scheduler: Scheduler,
    inputs: DenoisingInputs,
    after_step: AfterStep | None = None,
    progress_bar: Callable[[Iterable[torch.Tensor]], Iterable[torch.Tensor]] = iter,
) -> torch.Tensor:
    """Take latents from noise to image (Ho et al. 2020, algorithm 2, or the scheduler's own rule).

    Args:
        unet (`SDUNet2DConditionModel`): Predicts what the scheduler's `prediction_type` says.
        scheduler (`Scheduler`): Set to `inputs.timesteps`.
        inputs (`DenoisingInputs`): The start.
        after_step (callable, *optional*): See `AfterStep`.
        progress_bar (callable, *optional*): Wraps the timesteps, as `tqdm` does.

    Returns:
        `torch.Tensor` of the shape and dtype of `inputs.latents`: x_0.
    """
    predictor = Predictor(unet, inputs.timesteps)
    for step, timestep in enumerate(progress_bar(inputs.timesteps)):
        latents = denoising_step(predictor, scheduler, inputs, step)
        if inputs.known is not None:
            is_last = step == len(inputs.timesteps) - 1
            latents = inputs.known.put_back(latents, scheduler, None if is_last else inputs.timesteps[step + 1])
        inputs = replace(inputs, latents=latents)
        if after_step is not None:
            inputs = after_step(step, timestep, inputs)
        if inputs.interrupted:
            break
    return inputs.latents


def denoising_step(predictor: Predictor, scheduler: Scheduler, inputs: DenoisingInputs, step: int) -> torch.Tensor:
    """Take one step.

    Args:
        predictor (`Predictor`): Asks the U-Net.
        scheduler (`Scheduler`): See `denoise`.
        inputs (`DenoisingInputs`): With x_t as `latents`.
        step (`int`): The number of the timestep t.

    Returns:
        `torch.Tensor` of the shape and dtype of `inputs.latents`: the latents of the next, less noisy, timestep.
    """
    noise_pred, timestep = predict(predictor, scheduler, inputs, step), inputs.timesteps[step]
    if inputs.is_guided:
        noise_uncond, noise_text = noise_pred.chunk(2)
        noise_pred = guide(noise_uncond, noise_text, inputs.guidance_scale)
        if inputs.guidance_rescale > 0:
            noise_pred = rescale_guided(noise_pred, noise_text, inputs.guidance_rescale)
    arguments = step_arguments(scheduler, eta=inputs.eta, generator=inputs.generator)
    return scheduler.step(noise_pred, timestep, inputs.latents, **arguments, return_dict=False)[0]


def predict(predictor: Predictor, scheduler: Scheduler, inputs: DenoisingInputs, step: int) -> torch.Tensor:
    """Ask the U-Net about all latents, at once or through windows.

    Args:
        predictor (`Predictor`): Asks the U-Net.
        scheduler (`Scheduler`): See `denoise`.
        inputs (`DenoisingInputs`): With x_t as `latents`.
        step (`int`): The number of the timestep t.

    Returns:
        `torch.Tensor` of the shape and dtype of `inputs.latents`. With guidance, of twice as many samples: for the
        negative prompts, then for the prompts.
    """
    latents = inputs.latents
    model_input = scheduler.scale_model_input(latents, inputs.timesteps[step])
    if inputs.added_channels is not None:
        model_input = torch.cat([model_input, inputs.added_channels], dim=1)

    def predict_part(place: tuple[slice, slice]) -> torch.Tensor:
        return predictor(model_input[..., place[0], place[1]], step, inputs)

    window = inputs.window or (latents.shape[-2], latents.shape[-1])
    # Where everything is known, nobody asks.
    wanted = None if inputs.known is None else inputs.known.mask
    return predict_in_windows(predict_part, repeat_batch(latents, inputs.copies), window, wanted)


def guide(noise_uncond: torch.Tensor, noise_text: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Push the prediction away from the negative prompt, towards the prompt.

    noise = noise_uncond + w (noise_text - noise_uncond)

    (Ho and Salimans 2022, equation 6, with w - 1 for their w, as in Saharia et al. 2022, equation 2.)

    Args:
        noise_uncond (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
            Prediction for the negative prompt. Floating point.
        noise_text (`torch.Tensor`, same shape and dtype): Prediction for the prompt.
        guidance_scale (`float`): w. At 1 the result is `noise_text`.

    Returns:
        `torch.Tensor` of the same shape and dtype.
    """
    return noise_uncond + guidance_scale * (noise_text - noise_uncond)


def rescale_guided(noise_guided: torch.Tensor, noise_text: torch.Tensor, guidance_rescale: float) -> torch.Tensor:
    """Bring the contrast that guidance raised back towards that of the prompt's own prediction.

    noise = (phi std(noise_text) / std(noise_guided) + 1 - phi) noise_guided

    std is over all elements of a sample (Lin et al. 2023, equations 15 and 16).

    Args:
        noise_guided (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
            What `guide` returned. Floating point.
        noise_text (`torch.Tensor`, same shape and dtype): Prediction for the prompt.
        guidance_rescale (`float`): phi, in [0, 1]; 0 changes nothing.

    Returns:
        `torch.Tensor` of the same shape and dtype.
    """
    sample_axes = tuple(range(1, noise_text.ndim))
    ratio = noise_text.std(dim=sample_axes, keepdim=True) / noise_guided.std(dim=sample_axes, keepdim=True)
    return guidance_rescale * (noise_guided * ratio) + (1 - guidance_rescale) * noise_guided
