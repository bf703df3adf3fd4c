"""The samplers that a command line can name. Nothing heavy is imported before one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sd_pipeline.pipelines.pipeline_base import SDBasePipeline

SCHEDULERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Names of samplers on the command line, and their classes in diffusers."""


def use_scheduler(pipe: SDBasePipeline, name: str) -> None:
    """Give a pipeline another sampler, with the noise schedule and the prediction type of its own.

    Args:
        pipe (`SDBasePipeline`): Is changed.
        name (`str`): One of `SCHEDULERS`. `"ddpm"` is the [`SDDDPMScheduler`] of this package.
    """
    import diffusers

    from sd_pipeline.schedulers.scheduling_ddpm import SDDDPMScheduler

    scheduler_class = SDDDPMScheduler if name == "ddpm" else getattr(diffusers, SCHEDULERS[name])
    pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config)
