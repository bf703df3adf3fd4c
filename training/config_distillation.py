"""The block of distillation in a configuration. Imports nothing of the project but the other blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.config_stages import INFINITY, require


@dataclass(frozen=True)
class DistillationConfig:
    """A student that needs fewer steps than its teacher (Salimans and Ho 2022), the pretrained model of the run.

    The student starts as a copy of the teacher. Each of its steps learns to end where several steps of the teacher do,
    guidance included (Meng et al. 2023), so that it is called with a guidance of 1 and asks its U-Net once a step.

    Args:
        num_inference_steps: Steps of the student; 0 distils nothing.
        teacher_num_inference_steps: Steps of the teacher, a multiple of them; null takes twice as many.
        guidance_scale: Guidance of the teacher; null takes what it recommends.
        start: Where the steps that are learned begin: at `data` that are diffused, as in the papers, or where the
            `student` itself arrives from noise by its steps so far, which is what it meets when it is used.
    """

    num_inference_steps: int = 0
    teacher_num_inference_steps: int | None = None
    guidance_scale: float | None = None
    start: Literal["data", "student"] = "data"

    def __post_init__(self) -> None:
        steps, of_teacher, scale = self.num_inference_steps, self.teacher_num_inference_steps, self.guidance_scale
        block = "diffusion.distillation"
        require(steps >= 0, f"{block}.num_inference_steps", steps, "at least 0")
        fits = of_teacher is None or (steps > 0 and of_teacher > 0 and of_teacher % steps == 0)
        allowed = f"a multiple of {block}.num_inference_steps = {steps}, or null"
        require(fits, f"{block}.teacher_num_inference_steps", of_teacher, allowed)
        fits = scale is None or (steps > 0 and 1 <= scale < INFINITY)
        allowed = f"at least 1 and finite, with {block}.num_inference_steps, or null"
        require(fits, f"{block}.guidance_scale", scale, allowed)

    @property
    def is_on(self) -> bool:
        """Whether the run distils."""
        return self.num_inference_steps > 0

    @property
    def substeps(self) -> int:
        """Steps of the teacher in one of the student."""
        return (self.teacher_num_inference_steps or 2 * self.num_inference_steps) // self.num_inference_steps
