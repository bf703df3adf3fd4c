"""The scheduler of training, and the one that is published."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers

from sd_pipeline import SDDDPMScheduler
from sd_pipeline.pipelines.scheduler_use import check_prediction_type
from training.config import ConfigError, TrainConfig
from training.tasks.components import build


def build_scheduler(config: TrainConfig, in_pixel_space: bool) -> SDDDPMScheduler:
    """Build the scheduler of training; it clips predictions of x_0 in pixel space only, unless it says otherwise."""
    arguments = {"clip_sample": in_pixel_space, **config.diffusion.scheduler}
    if str(arguments.get("variance_type")).startswith("learned"):
        kind = arguments["variance_type"]
        raise ConfigError(f"diffusion.scheduler.variance_type = {kind!r}: Algorithm 1 does not train variances")
    return build("diffusion.scheduler", SDDDPMScheduler, arguments)


def recommended_scheduler(config: TrainConfig, scheduler: SDDDPMScheduler) -> Any:
    """Build the scheduler that is published: a class by name, with the forward process of training.

    Raises:
        ConfigError: If there is no such class, it refuses the keys or cannot use what the model predicts.
    """
    evaluation = config.evaluation
    kind = {"SDDDPMScheduler": SDDDPMScheduler}.get(evaluation.scheduler) or getattr(
        diffusers, evaluation.scheduler, None
    )
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ConfigError(
            f"evaluation.scheduler = {evaluation.scheduler!r}: must be SDDDPMScheduler or a scheduler of diffusers, "
            "such as DDIMScheduler or DPMSolverMultistepScheduler"
        )
    # What the stock pipeline, and so ours, demands of a scheduler beside an autoencoder.
    offset = {} if scheduler.config["clip_sample"] else {"steps_offset": 1}
    for name in evaluation.scheduler_config:
        if name not in inspect.signature(kind.__init__).parameters:
            raise ConfigError(f"evaluation.scheduler_config.{name}: unknown key of {evaluation.scheduler}")
    arguments = {**scheduler.config, **offset, **evaluation.scheduler_config}
    # `from_config` would reset what is named here to the default of the class, whatever value it has by now.
    del arguments["_use_default_values"]
    published = build("evaluation.scheduler_config", lambda: kind.from_config(arguments), {})
    build("evaluation.scheduler", check_prediction_type, {"scheduler": published})
    return published
