"""Generating the images that are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from tqdm.auto import tqdm

from sd_pipeline import SDPipeline


def generate_images(
    pipe: SDPipeline, prompts: Sequence[str], seed: int, batch_size: int = 25, **call: Any
) -> list[Image.Image]:
    """Generate one image a prompt; image i has a generator of its own, seeded with seed + i, whatever its batch.

    Args:
        pipe (`SDPipeline`): The pipeline.
        prompts (sequence of `str`): The prompts.
        seed (`int`): Seed of the first image.
        batch_size (`int`, defaults to 25): Images generated at a time.
        call: Further arguments of the pipeline's call.

    Returns:
        `list[PIL.Image.Image]`: one image a prompt.
    """
    pipe.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for first in tqdm(range(0, len(prompts), batch_size), desc="generating", unit="batch"):
        part = list(prompts[first : first + batch_size])
        generators = [torch.Generator().manual_seed(seed + first + number) for number in range(len(part))]
        images += cast(list[Image.Image], pipe(part, generator=generators, return_dict=False, **call)[0])
    return images
