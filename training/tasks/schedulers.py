"""The scheduler of training, and the one that is published."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers

from sd_pipeline import SDDDPMScheduler
from sd_pipeline.pipelines.scheduler_use import Scheduler, check_prediction_type
from training.config import ConfigError, TrainConfig
from training.tasks.components import build

_FORWARD_PROCESS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)
"""What a scheduler's configuration says of the forward process and the prediction, whatever its way to sample."""

_LEARNED_VARIANCE = ("DDPMScheduler", "SDDDPMScheduler")
# The spacing of timesteps whose last one is 0, however many are taken.
_ENDS_AT_0 = "linspace"


def build_scheduler(config: TrainConfig, in_pixel_space: bool, pretrained: Scheduler | None = None) -> SDDDPMScheduler:
    """Build the scheduler of training; it clips predictions of x_0 in pixel space only, unless it says otherwise.

    Args:
        config (`TrainConfig`): The run.
        in_pixel_space (`bool`): Whether there is no autoencoder.
        pretrained (`Scheduler`, *optional*): Of the model that the run goes on from: its forward process, and what is
            predicted, hold where the run says nothing else.
    """
    arguments = {"clip_sample": in_pixel_space, **_forward_process(pretrained), **config.diffusion.scheduler}
    if arguments.get("variance_type") == "learned":
        raise ConfigError(
            "diffusion.scheduler.variance_type = 'learned': nothing keeps such a variance positive; learned_range is "
            "trained"
        )
    if config.diffusion.learns_variance and pretrained is not None:
        raise ConfigError(
            "diffusion.scheduler.variance_type = 'learned_range': allowed without "
            "diffusion.pretrained_model_name_or_path, whose U-Net has no channels for it"
        )
    return build("diffusion.scheduler", SDDDPMScheduler, arguments)


def recommended_scheduler(config: TrainConfig, scheduler: SDDDPMScheduler, pretrained: Scheduler | None = None) -> Any:
    """Build the scheduler that is published: a class by name, with the forward process of training.

    Args:
        config (`TrainConfig`): The run.
        scheduler (`SDDDPMScheduler`): That of training.
        pretrained (`Scheduler`, *optional*): Of the model that the run goes on from; published where the run names no
            other.

    Raises:
        ConfigError: If there is no such class, it refuses the keys or cannot use what the model predicts.
    """
    evaluation = config.sampling
    own = scheduler.config
    if evaluation.scheduler is not None or pretrained is None:
        name = evaluation.scheduler or ("DDPMScheduler" if config.diffusion.learns_variance else "DDIMScheduler")
        kind = {"SDDDPMScheduler": SDDDPMScheduler}.get(name) or getattr(diffusers, name, None)
    else:
        kind, name = type(pretrained), type(pretrained).__name__
        own = {**pretrained.config, **_forward_process(scheduler)}
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ConfigError(
            f"evaluation.scheduler = {evaluation.scheduler!r}: must be SDDDPMScheduler or a scheduler of diffusers, "
            "such as DDIMScheduler or DPMSolverMultistepScheduler"
        )
    if config.diffusion.learns_variance and name not in _LEARNED_VARIANCE:
        raise ConfigError(
            f"evaluation.scheduler = {name!r}: a learned variance is used by {', '.join(_LEARNED_VARIANCE)}"
        )
    # What the stock pipeline, and so ours, demands of a scheduler beside an autoencoder.
    offset = {} if scheduler.config["clip_sample"] else {"steps_offset": 1}
    for key in evaluation.scheduler_config:
        if key not in inspect.signature(kind.__init__).parameters:
            raise ConfigError(f"evaluation.scheduler_config.{key}: unknown key of {name}")
    arguments = {**own, **offset, **evaluation.scheduler_config}
    if config.diffusion.learns_variance:
        spacing = evaluation.scheduler_config.get("timestep_spacing", _ENDS_AT_0)
        if spacing != _ENDS_AT_0:
            raise ConfigError(
                f"evaluation.scheduler_config.timestep_spacing = {spacing!r}: must be {_ENDS_AT_0} with a learned "
                "variance, which diffusers can use in the last step only if that is timestep 0"
            )
        arguments["timestep_spacing"] = spacing
    # `from_config` would reset what is named here to the default of the class, whatever value it has by now.
    arguments.pop("_use_default_values", None)
    published = build("evaluation.scheduler_config", lambda: kind.from_config(arguments), {})
    build("evaluation.scheduler", check_prediction_type, {"scheduler": published})
    return published


def _forward_process(scheduler: Scheduler | SDDDPMScheduler | None) -> dict[str, Any]:
    config = {} if scheduler is None else scheduler.config
    return {key: config[key] for key in _FORWARD_PROCESS if key in config}
