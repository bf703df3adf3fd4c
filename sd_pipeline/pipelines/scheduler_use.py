"""What pipelines ask of a scheduler, whichever it is."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from diffusers import DDPMScheduler

from sd_pipeline.schedulers.scheduler_arguments import LEARNED_VARIANCE_TYPES
from sd_pipeline.schedulers.scheduling_ddpm import SDDDPMScheduler

logger = logging.getLogger(__name__)


class Scheduler(Protocol):
    """Any scheduler of diffusers or of this package: what their base class should say, and does not."""

    config: Any
    timesteps: torch.Tensor
    init_noise_sigma: Any
    order: int
    from_config: Callable[..., Any]
    set_timesteps: Callable[..., None]
    scale_model_input: Callable[..., torch.Tensor]
    add_noise: Callable[..., torch.Tensor]
    step: Callable[..., Any]


def fit_for_latents(scheduler: Scheduler) -> Scheduler:
    """Use a scheduler for latents as the pipelines of diffusers do, so that a folder gives the same images there.

    Latents go beyond 1, so `clip_sample` must be false; and Stable Diffusion's timesteps are shifted by one.

    Args:
        scheduler (`Scheduler`): Any. Is not changed.

    Returns:
        `Scheduler`: The same, or one of its class with `clip_sample=False` and `steps_offset=1`, with a warning.
    """
    wanted = {"clip_sample": False, "steps_offset": 1}
    changes = {key: value for key, value in wanted.items() if scheduler.config.get(key, value) != value}
    if not changes:
        return scheduler
    logger.warning(f"As in diffusers, a pipeline with an autoencoder uses its scheduler with {changes}.")
    return type(scheduler).from_config(scheduler.config, **changes)


def check_prediction_type(scheduler: Scheduler) -> None:
    """Check that a scheduler can use what the model predicts.

    Args:
        scheduler (`Scheduler`): Any, with a configuration that goes back to the model's own scheduler.

    Raises:
        ValueError: If the model predicts the mean and the scheduler is one of diffusers.
    """
    if scheduler.config.get("prediction_type") == "mean" and not isinstance(scheduler, SDDDPMScheduler):
        raise ValueError(
            f"`scheduler` is a {type(scheduler).__name__}, but this model predicts the posterior mean "
            '(prediction_type "mean"), which only SDDDPMScheduler can use'
        )


def check_variance_type(scheduler: Scheduler, has_variance: bool) -> None:
    """Check that a scheduler takes the U-Net's variances, if it has any.

    Args:
        scheduler (`Scheduler`): Any.
        has_variance (`bool`): Whether the U-Net gives twice the channels of the latents.

    Raises:
        ValueError: If one of them has learned variances and the other has not.
    """
    kind = scheduler.config.get("variance_type") if isinstance(scheduler, (SDDDPMScheduler, DDPMScheduler)) else None
    if has_variance != (kind in LEARNED_VARIANCE_TYPES):
        learned = "learns variances" if has_variance else "learns no variances"
        raise ValueError(
            f"`scheduler` is a {type(scheduler).__name__} with variance_type {kind!r}, but `unet` {learned}: a "
            "learned variance goes with DDPMScheduler or SDDDPMScheduler and variance_type 'learned_range', and only "
            "with it"
        )


def set_timesteps(
    scheduler: Scheduler,
    num_inference_steps: int,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Set the timesteps of a scheduler: so many, or exactly these.

    Args:
        scheduler (`Scheduler`): Is changed.
        num_inference_steps (`int`): How many, at least 1. Not used where the next two are given.
        timesteps (sequence of `int`, *optional*): The timesteps themselves, falling.
        sigmas (sequence of `float`, *optional*): Or their noise levels, falling.
        device (`torch.device`, *optional*): Where the timesteps shall be.

    Returns:
        `torch.Tensor` of shape `(num_timesteps,)`: more than `num_inference_steps` for schedulers of higher order.

    Raises:
        ValueError: If both are given, or the scheduler does not take one of them, or refuses the values.
    """
    if timesteps is not None and sigmas is not None:
        raise ValueError("`timesteps` and `sigmas` are both given; give one of them")
    custom = {name: value for name, value in (("timesteps", timesteps), ("sigmas", sigmas)) if value is not None}
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    for name in custom:
        if name not in accepted:
            raise ValueError(f"`{name}`: {type(scheduler).__name__} does not take custom {name}")
    if custom:
        scheduler.set_timesteps(device=device, **custom)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler.timesteps


def start_late(scheduler: Scheduler, num_inference_steps: int, strength: float) -> torch.Tensor:
    """Leave out the first, noisiest, timesteps: the loop starts from a picture with the noise of a later one.

    Args:
        scheduler (`Scheduler`): With its timesteps set. Is told where it begins, if it wants to know.
        num_inference_steps (`int`): How many steps these are.
        strength (`float`): Share of the steps to take, in [0, 1].

    Returns:
        `torch.Tensor` of shape `(num_timesteps,)`: empty for a share of less than one step.
    """
    num_steps = min(int(num_inference_steps * strength), num_inference_steps)
    start = (num_inference_steps - num_steps) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    return scheduler.timesteps[start:]


def step_arguments(scheduler: Scheduler, **offered: Any) -> dict[str, Any]:
    """Choose which arguments the scheduler's `step` takes: not all know `eta` or draw noise from a `generator`.

    Args:
        scheduler (`Scheduler`): Any.
        offered (`Any`): Keyword arguments.

    Returns:
        `dict[str, Any]`: Those of them that `scheduler.step` takes.
    """
    accepted = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in offered.items() if name in accepted}
