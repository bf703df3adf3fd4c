"""Which timesteps the U-Net is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sd_pipeline.schedulers.timestep_spacing import trailing
from training.config import DiffusionConfig
from training.engine.random_streams import stratified_uniform, uniform


def logit_normal_quantile(probability: torch.Tensor, mean: torch.Tensor | float, std: float) -> torch.Tensor:
    """Turn uniform numbers into logit-normal ones: the quantile function (Esser et al. 2024, eq. 19).

    t = sigmoid(mean + std Phi^-1(u))

    Args:
        probability (`torch.Tensor`): u in [0, 1), floating point.
        mean (`float` or `torch.Tensor` of the shape of `probability`):
            Mean of the logit of t; above 0 favours noisy timesteps.
        std (`float`): Standard deviation of the logit.

    Returns:
        `torch.Tensor` of the same shape and dtype, in [0, 1].
    """
    return torch.sigmoid(mean + std * torch.special.ndtri(probability))


def mean_logits(settings: DiffusionConfig, sample_numbers: Sequence[int]) -> torch.Tensor:
    """Move the mean of the logit of t linearly from where it starts to where it stays.

    What a caption decides is decided where all is noise; there the U-Net has to read it. Shown few such timesteps
    among many that it can do from the picture alone, it may not begin to.

    Args:
        settings (`DiffusionConfig`): `logit_mean`, and the start and length of the way to it.
        sample_numbers (sequence of `int`): Global sample numbers, from 0.

    Returns:
        `torch.Tensor` of shape `(len(sample_numbers),)`, float64.
    """
    numbers = torch.tensor(sample_numbers, dtype=torch.float64)
    if settings.logit_mean_start is None:
        return torch.full_like(numbers, settings.logit_mean)
    way = (numbers / settings.logit_mean_start_samples).clamp(max=1.0)
    return settings.logit_mean_start + way * (settings.logit_mean - settings.logit_mean_start)


def timesteps_of(settings: DiffusionConfig, num_train_timesteps: int) -> torch.Tensor:
    """List the timesteps that the U-Net is trained on: all, or those that a distilled student will visit.

    Args:
        settings (`DiffusionConfig`): Whether it is a student, and of how many steps.
        num_train_timesteps (`int`): T.

    Returns:
        `torch.LongTensor` of shape `(num_timesteps,)`, ascending, in [0, T).
    """
    if not settings.distillation.is_on:
        return torch.arange(num_train_timesteps)
    return torch.from_numpy(trailing(num_train_timesteps, settings.distillation.num_inference_steps)).flip(0)


def draw_timesteps(
    settings: DiffusionConfig, seed: int, sample_numbers: Sequence[int], num_train_timesteps: int
) -> torch.Tensor:
    """Draw a timestep for every sample, keyed by its number.

    Args:
        settings (`DiffusionConfig`): Density and sampling.
        seed (`int`): The seed of the run.
        sample_numbers (sequence of `int`): Global sample numbers.
        num_train_timesteps (`int`): T.

    Returns:
        `torch.LongTensor` of shape `(len(sample_numbers),)`, in [0, T).
    """
    draw = stratified_uniform if settings.timestep_sampling == "stratified" else uniform
    points = draw(seed, "diffusion/timestep", sample_numbers)
    if settings.weighting_scheme == "logit_normal":
        points = logit_normal_quantile(points, mean_logits(settings, sample_numbers), settings.logit_std)
    timesteps = timesteps_of(settings, num_train_timesteps)
    return timesteps[(points * len(timesteps)).long().clamp(max=len(timesteps) - 1)]
