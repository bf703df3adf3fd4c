"""Generating the images that are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from PIL import Image

from sd_pipeline.pipelines.generation_pipeline import SDGenerationPipeline
from training.evaluation.spreading import spread
from training.evaluation.suite import Call


def generate_images(
    pipe: SDGenerationPipeline,
    prompts: Sequence[str],
    call: Call,
    one_each: Mapping[str, Sequence[Image.Image]] | None = None,
    **options: Any,
) -> list[Image.Image]:
    """Generate one image a prompt, on all processes; image i has a generator of its own, `call.generator(i)`.

    On a CPU, the number of threads of a process changes the last bits.

    Args:
        pipe (`SDGenerationPipeline`): The pipeline, of any task, on the device of the process.
        prompts (sequence of `str`): The prompts.
        call (`Call`): How to generate.
        one_each (`Mapping[str, Sequence[PIL.Image.Image]]`, *optional*): Arguments of which every prompt has its own,
            such as `image` and `mask_image`.
        options (`Any`): Arguments that are the same for all, such as `padding`.

    Returns:
        `list[PIL.Image.Image]`: one image a prompt, all of them on every process.
    """

    def generate(numbers: Sequence[int]) -> list[Image.Image]:
        own = {name: [values[number] for number in numbers] for name, values in (one_each or {}).items()}
        result = cast(Any, pipe)(
            [prompts[number] for number in numbers],
            num_inference_steps=call.num_inference_steps,
            guidance_scale=call.guidance_scale,
            eta=call.eta,
            generator=[call.generator(number) for number in numbers],
            return_dict=False,
            **own,
            **options,
        )
        return cast(list[Image.Image], result[0])

    pipe.set_progress_bar_config(disable=True)
    return spread(generate, range(len(prompts)), call.batch_size, "generating")
