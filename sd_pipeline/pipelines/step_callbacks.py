"""The user's eye and hand inside the denoising loop: `callback_on_step_end`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from sd_pipeline.pipelines.denoising import AfterStep, DenoisingInputs

StepCallback = Callable[[Any, int, torch.Tensor, dict[str, Any]], dict[str, Any]]

CALLBACK_TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds")


def follow_callback(
    pipeline: Any,
    callback: StepCallback | None,
    tensor_names: Sequence[str],
    negative_prompt_embeds: torch.Tensor | None,
) -> AfterStep:
    """Make the denoising loop follow a callback, and what anybody sets on the pipeline meanwhile.

    As in diffusers, a callback may return other tensors, change `pipeline._guidance_scale`, or stop the loop by
    `pipeline._interrupt = True`.

    Args:
        pipeline ([`SDPipeline`]): The first argument of the callback.
        callback (`StepCallback`, *optional*): Called with the pipeline, the number of the step, its timestep and the
            tensors; returns those that it changes.
        tensor_names (sequence of `str`): Which of `CALLBACK_TENSORS` it gets.
        negative_prompt_embeds (`torch.Tensor`, *optional*): For the callback to see. With guidance, those that have an
            effect are the first half of `prompt_embeds`.

    Returns:
        `AfterStep`: For `denoise`.
    """

    def after_step(step: int, timestep: torch.Tensor, inputs: DenoisingInputs) -> DenoisingInputs:
        changed: dict[str, Any] = {}
        if callback is not None:
            values = (inputs.latents, inputs.encoder_hidden_states, negative_prompt_embeds)
            tensors = dict(zip(CALLBACK_TENSORS, values, strict=True))
            changed = callback(pipeline, step, timestep, {name: tensors[name] for name in tensor_names}) or {}
        return replace(
            inputs,
            latents=changed.get("latents", inputs.latents),
            encoder_hidden_states=changed.get("prompt_embeds", inputs.encoder_hidden_states),
            guidance_scale=pipeline.guidance_scale,
            interrupted=pipeline.interrupt,
            num_callbacks=inputs.num_callbacks + (callback is not None),
        )

    return after_step
