"""The pictures in the card of a model."""

from __future__ import annotations

import io
from collections.abc import Sequence

from sd_pipeline import SDPipeline
from training.evaluation.contact_sheet import Print, contact_sheet
from training.evaluation.generation import generate_images
from training.evaluation.suite import Call


def draw_samples(pipe: SDPipeline, prompts: Sequence[str]) -> bytes:
    """Generate a picture of each prompt with the recommended call, picture i from the seed i, and draw a page.

    Args:
        pipe (`SDPipeline`): The model.
        prompts (sequence of `str`): What is asked for.

    Returns:
        `bytes`: A PNG file.
    """
    pictures = generate_images(pipe, prompts, Call(seed=0))
    prints = [Print(picture, prompt) for picture, prompt in zip(pictures, prompts, strict=True)]
    page = io.BytesIO()
    contact_sheet([(f"seeds 0 to {len(prints) - 1}", prints)], columns=4).save(page, format="PNG", optimize=True)
    return page.getvalue()
