"""What all pipelines are asked alike: the arguments that every `__call__` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from sd_pipeline.pipelines.step_callbacks import StepCallback

Generators = torch.Generator | list[torch.Generator] | None
Callback = StepCallback | PipelineCallback | MultiPipelineCallbacks | None


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of a call that do not depend on the task, named and meant as in [`SDPipeline`].

    Args:
        prompt (`str` or `list[str]`, *optional*): What the images shall show.
        negative_prompt (`str` or `list[str]`, *optional*): What to stay away from.
        prompt_embeds (`torch.Tensor`, *optional*): In place of `prompt`.
        negative_prompt_embeds (`torch.Tensor`, *optional*): In place of `negative_prompt`.
        num_images_per_prompt (`int`): Images of a prompt.
        batch_size (`int`, *optional*): Number of images of an unconditional model.
        num_inference_steps (`int`, *optional*): Steps; filled in from the recommended call, as are the next three.
        guidance_scale (`float`, *optional*): How strongly to follow the prompt.
        guidance_rescale (`float`, *optional*): How much of the added contrast to take back.
        eta (`float`, *optional*): Noise that DDIM adds.
        timesteps (`list[int]`, *optional*): The timesteps themselves.
        sigmas (`list[float]`, *optional*): Or their noise levels.
        generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of all noise.
        output_type (`str`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
        return_dict (`bool`): Whether to return an object, or else a tuple.
        cross_attention_kwargs (`dict[str, Any]`, *optional*): Passed to the attention processors.
        clip_skip (`int`, *optional*): Layers of the text encoder to leave out.
        callback_on_step_end (callable, *optional*): Called after each step.
        callback_on_step_end_tensor_inputs (sequence of `str`): What it gets.
        num_prompts (`int`, defaults to 0): How many prompts there are; counted when the call is checked.
        device (`torch.device`): Where the models compute; found when the call is checked, as the search for it goes
            through all modules.
    """

    prompt: str | list[str] | None
    negative_prompt: str | list[str] | None
    prompt_embeds: torch.Tensor | None
    negative_prompt_embeds: torch.Tensor | None
    num_images_per_prompt: int
    batch_size: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    guidance_rescale: float | None
    eta: float | None
    timesteps: list[int] | None
    sigmas: list[float] | None
    generator: Generators
    output_type: str
    return_dict: bool
    cross_attention_kwargs: dict[str, Any] | None
    clip_skip: int | None
    callback_on_step_end: Callback
    callback_on_step_end_tensor_inputs: list[str] | tuple[str, ...]
    num_prompts: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Call:
        """Pick what all tasks are asked alike out of the arguments of a call.

        Args:
            arguments (`Mapping[str, Any]`): Those of a `__call__`, by name; others are left alone.

        Returns:
            `Call`: Not checked yet.
        """
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in arguments.items() if name in names})

    @property
    def num_images(self) -> int:
        """How many images the call makes."""
        return self.num_prompts * self.num_images_per_prompt
