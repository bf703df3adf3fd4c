"""The pictures in the card of a model."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from PIL import Image

from sd_pipeline.pipelines.generation_pipeline import SDGenerationPipeline
from training.evaluation.contact_sheet import Print, contact_sheet

_AT_A_TIME = 4


def generate_samples(
    pipe: SDGenerationPipeline, count: int, one_each: Mapping[str, Sequence[Any]]
) -> list[Image.Image]:
    """Generate pictures in this process alone, with the recommended call, picture i from the seed i.

    Args:
        pipe (`SDGenerationPipeline`): The model, of any task.
        count (`int`): How many pictures.
        one_each (`Mapping[str, Sequence[Any]]`): Arguments of which every picture has its own, such as `prompt`; empty
            for an unconditional model.

    Returns:
        `list[PIL.Image.Image]`: The pictures.
    """
    pipe.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    for first in range(0, count, _AT_A_TIME):
        numbers = range(first, min(first + _AT_A_TIME, count))
        own: dict[str, Any] = {name: [values[number] for number in numbers] for name, values in one_each.items()}
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        output = cast(Any, pipe)(**(own or {"batch_size": len(numbers)}), generator=generators, return_dict=False)
        pictures += output[0]
    return pictures


def page_of_samples(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Draw a page of samples.

    Args:
        pictures (sequence of `PIL.Image.Image`): Picture i is that of the seed i.
        captions (sequence of `str`): What stands under each.
    """
    prints = [Print(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]
    return contact_sheet([(f"seeds 0 to {len(prints) - 1}", prints)], columns=4)


def png(picture: Image.Image) -> bytes:
    """Write a picture as a PNG file.

    Args:
        picture (`PIL.Image.Image`): Any.
    """
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Put two pictures next to each other, the second at the size of the first.

    Args:
        left (`PIL.Image.Image`): The first.
        right (`PIL.Image.Image`): The second.
    """
    gap = max(1, left.width // 16)
    pair = Image.new("RGB", (2 * left.width + gap, left.height), "white")
    pair.paste(left, (0, 0))
    pair.paste(right.resize(left.size), (left.width + gap, 0))
    return pair
