"""What the measurements of inpainting and outpainting share: painting, and whether what was to be kept is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from PIL import Image

from sd_pipeline import SDInpaintPipeline, SDOutpaintPipeline
from training.evaluation.spreading import spread
from training.evaluation.suite import Call


def paint(
    pipe: SDInpaintPipeline | SDOutpaintPipeline,
    captions: Sequence[str],
    pictures: Sequence[Image.Image],
    call: Call,
    masks: Sequence[Image.Image] | None = None,
    **options: Any,
) -> list[Image.Image]:
    """Paint into pictures, or around them, on all processes; picture i has a generator of its own.

    Args:
        pipe (`SDInpaintPipeline` or `SDOutpaintPipeline`): The pipeline, on the device of the process.
        captions (sequence of `str`): One a picture.
        pictures (sequence of `PIL.Image.Image`): All of one size.
        call (`Call`): How to generate.
        masks (sequence of `PIL.Image.Image`, *optional*): One a picture, to paint into it.
        options (`Any`): Further arguments of the call.

    Returns:
        `list[PIL.Image.Image]`: One a picture, all of them on every process.
    """

    def paint_some(numbers: Sequence[int]) -> list[Image.Image]:
        of_masks: dict[str, Any] = {} if masks is None else {"mask_image": [masks[number] for number in numbers]}
        result = pipe(
            [captions[number] for number in numbers],
            image=[pictures[number] for number in numbers],
            num_inference_steps=call.num_inference_steps,
            guidance_scale=call.guidance_scale,
            eta=call.eta,
            generator=[call.generator(number) for number in numbers],
            return_dict=False,
            **of_masks,
            **options,
        )
        return cast(list[Image.Image], result[0])

    pipe.set_progress_bar_config(disable=True)
    return spread(paint_some, range(len(captions)), call.batch_size, "painting")


def is_kept(original: Image.Image, painted: Image.Image, kept: np.ndarray) -> bool:
    """Tell whether all pixels that were to be kept are the same.

    Args:
        original (`PIL.Image.Image`): RGB.
        painted (`PIL.Image.Image`): RGB, of the same size.
        kept (`numpy.ndarray` of shape `(height, width)`, bool): Where.
    """
    return bool((np.asarray(original) == np.asarray(painted))[kept].all())
