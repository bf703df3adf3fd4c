"""What the page does with a model: one set of components, a pipeline for each task, one call at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from sd_pipeline.pipelines.generation_pipeline import SDGenerationPipeline
from sd_pipeline.pipelines.pipeline_img2img import SDImg2ImgPipeline
from sd_pipeline.pipelines.pipeline_inpaint import SDInpaintPipeline
from sd_pipeline.pipelines.pipeline_outpaint import SDOutpaintPipeline
from sd_pipeline.pipelines.pipeline_sd import SDPipeline

TASKS: dict[str, type[SDGenerationPipeline]] = {
    "text_to_image": SDPipeline,
    "image_to_image": SDImg2ImgPipeline,
    "inpaint": SDInpaintPipeline,
    "outpaint": SDOutpaintPipeline,
}
"""Each task of the page, and its pipeline."""

MAX_IMAGES = 8
"""Pictures of one call: a page is for several people, who wait for each other."""

OnStep = Callable[[int, int], None]
"""Called after each step with the number of steps done and of all steps; what it raises ends the call."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all tasks are asked alike.

    Args:
        prompt (`str`): What the pictures shall show; not looked at for models without prompts.
        negative_prompt (`str`): What to stay away from.
        seed (`int`): Picture i of seed s is picture 0 of seed s + i, as with the command line.
        num_inference_steps (`int`, *optional*): By default what the model recommends.
        guidance_scale (`float`, *optional*): By default what the model recommends.
        num_images (`int`): From 1 to `MAX_IMAGES`.
    """

    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int | None
    guidance_scale: float | None
    num_images: int


class Studio:
    """A loaded model and its tasks.

    Args:
        pipeline ([`SDPipeline`]): Its components are shared by the pipelines of all tasks.
    """

    def __init__(self, pipeline: SDPipeline) -> None:
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        tasks = [task for task in TASKS if not pipeline.is_inpainting_model or task in ("inpaint", "outpaint")]
        self.pipelines = {task: TASKS[task].from_pipe(pipeline) for task in tasks}
        for other in self.pipelines.values():
            other.set_progress_bar_config(disable=True)
        # The scheduler is shared too, and remembers where it stands.
        self._turn = threading.Lock()

    @classmethod
    def load(cls, model: str) -> Studio:
        """Load a model, onto a GPU if there is one.

        Args:
            model (`str`): As in `SDPipeline.from_pretrained`.

        Returns:
            `Studio`: Ready.

        Raises:
            RepositoryError: If a file is missing or damaged (it is a `ValueError`).
            OSError: If there is no such model.
        """
        return cls(SDPipeline.from_pretrained(model).to("cuda" if torch.cuda.is_available() else "cpu"))

    def make(self, task: str, settings: Settings, on_step: OnStep, **inputs: Any) -> list[Image.Image]:
        """Make pictures, after the calls of others.

        Args:
            task (`str`): One of `pipelines`.
            settings (`Settings`): What all tasks are asked.
            on_step (`OnStep`): Sees every step.
            inputs (`Any`): What this task alone is asked, named as in the call of its pipeline.

        Returns:
            `list[PIL.Image.Image]`: As many as were asked for.

        Raises:
            ValueError: If an argument is impossible, or does not go with another or with the model.
            FloatingPointError: If the model produced values that are not finite.
        """
        num_images = settings.num_images
        if not 1 <= num_images <= MAX_IMAGES:
            raise ValueError(f"the number of pictures is {num_images}; it must be from 1 to {MAX_IMAGES}")
        if not 0 <= settings.seed < 2**63:
            raise ValueError(f"the seed is {settings.seed}; it must be an integer from 0 to 2^63 - 1")
        pipeline: Any = self.pipelines[task]
        prompts = {}
        if pipeline.takes_prompts:
            prompts = {"prompt": settings.prompt, "negative_prompt": settings.negative_prompt}

        def after_step(pipeline: Any, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1, pipeline.num_timesteps)
            return tensors

        with self._turn:
            images: list[Image.Image] = pipeline(
                **prompts,
                **inputs,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                num_images_per_prompt=num_images,
                generator=[torch.Generator().manual_seed(settings.seed + index) for index in range(num_images)],
                callback_on_step_end=after_step,
            ).images
        return images
