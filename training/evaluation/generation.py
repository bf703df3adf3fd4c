"""Generating the images that are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from PIL import Image

from sd_pipeline import SDPipeline
from training.evaluation.spreading import spread
from training.evaluation.suite import Call


def generate_images(pipe: SDPipeline, prompts: Sequence[str], call: Call) -> list[Image.Image]:
    """Generate one image a prompt, on all processes; image i has a generator of its own, `call.generator(i)`.

    On a CPU, the number of threads of a process changes the last bits.

    Args:
        pipe (`SDPipeline`): The pipeline, on the device of the process.
        prompts (sequence of `str`): The prompts.
        call (`Call`): How to generate.

    Returns:
        `list[PIL.Image.Image]`: one image a prompt, all of them on every process.
    """

    def generate(numbers: Sequence[int]) -> list[Image.Image]:
        result = pipe(
            [prompts[number] for number in numbers],
            num_inference_steps=call.num_inference_steps,
            guidance_scale=call.guidance_scale,
            eta=call.eta,
            generator=[call.generator(number) for number in numbers],
            return_dict=False,
        )
        return cast(list[Image.Image], result[0])

    pipe.set_progress_bar_config(disable=True)
    return spread(generate, range(len(prompts)), call.batch_size, "generating")
