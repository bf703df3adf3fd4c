"""The block of a configuration that says how the result is sampled. It imports only other blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from training.config_stages import INFINITY, require


def sampling_of_student(num_inference_steps: int) -> dict[str, Any]:
    """Tell how a distilled student has learned to be sampled.

    Args:
        num_inference_steps (`int`): Its steps.

    Returns:
        `dict[str, Any]`: Keys of `EvaluationConfig`.
    """
    return {
        "scheduler": "DDIMScheduler",
        "scheduler_config": {"timestep_spacing": "trailing"},
        "num_inference_steps": num_inference_steps,
        "guidance_scale": 1.0,
        "eta": 0.0,
    }


@dataclass(frozen=True)
class EvaluationConfig:
    """The recommended call of the finished pipeline, and what validation draws with it.

    What is null is as a pretrained model recommends, if the U-Net starts from one.

    Args:
        scheduler: Class of the scheduler that is published: `SDDDPMScheduler` or the name of one of diffusers; null
            otherwise is `DDIMScheduler`.
        scheduler_config: Keys in which it differs from the scheduler of training.
        num_inference_steps: Recommended number of denoising steps; null otherwise is 50.
        guidance_scale: Recommended guidance; null otherwise is 7.5.
        eta: Recommended share of DDPM's noise that DDIM adds in each step, from 0 to 1; null otherwise is 0.
        validation_prompts: Prompts of the validation pictures; empty takes captions of the data set.
    """

    scheduler: str | None = None
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    eta: float | None = None
    validation_prompts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        steps, scale, eta = self.num_inference_steps, self.guidance_scale, self.eta
        require(steps is None or steps >= 1, "evaluation.num_inference_steps", steps, "at least 1, or null")
        fits = scale is None or 0 <= scale < INFINITY
        require(fits, "evaluation.guidance_scale", scale, "at least 0 and finite, or null")
        require(eta is None or 0 <= eta <= 1, "evaluation.eta", eta, "in [0, 1], or null")

    def check_left_to_student(self) -> None:
        """Refuse to say how a distilled student is sampled."""
        for name in sampling_of_student(1):
            value = getattr(self, name)
            allowed = "left out with diffusion.distillation, from which it follows"
            require(value is None or value == {}, f"evaluation.{name}", value, allowed)
