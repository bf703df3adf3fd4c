"""The parts of a card that have a picture: each writes its PNG file beside the card and returns the text around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.captioned_images import CaptionedImages
from training.data.pictures import to_picture
from training.evaluation.contact_sheet import Print, contact_sheet
from training.release.memorisation import draw_pairs, memorisation_text, nearest, thumbnails
from training.release.samples import page_of_samples, png
from training.release.training_curve import draw_training_curve

COMPARED_IMAGES = 2000
_HELD_OUT_IMAGES = 100


def curve_section(folder: Path, metrics_file: Path, stages: Sequence[str]) -> str:
    """Draw the losses of some stages.

    Args:
        folder (`Path`): Of the card.
        metrics_file (`Path`): `metrics.jsonl` of the run.
        stages (sequence of `str`): Which.

    Returns:
        `str`: Markdown.

    Raises:
        ValueError: If no losses were logged.
    """
    (folder / "training_curve.png").write_bytes(draw_training_curve(metrics_file, stages))
    return "![Loss of each stage](training_curve.png)\n\nEach logged loss, pale, and their smoothed curve."


def samples_section(folder: Path, pictures: Sequence[Image.Image], captions: Sequence[str], of_what: str) -> str:
    """Show samples.

    Args:
        folder (`Path`): Of the card.
        pictures (sequence of `PIL.Image.Image`): Picture i was made from the seed i.
        captions (sequence of `str`): What stands under each.
        of_what (`str`): What they are, a phrase that begins a sentence.

    Returns:
        `str`: Markdown.
    """
    (folder / "samples.png").write_bytes(png(page_of_samples(pictures, captions)))
    return (
        f"![Pictures of this model](samples.png)\n\n{of_what}, with the recommended call; counted from 0 and row by "
        "row, picture i is that of `generator=torch.Generator().manual_seed(i)`. None was chosen for its looks."
    )


def pairs_section(
    folder: Path, pairs: Sequence[tuple[Image.Image, Image.Image]], titles: tuple[str, str], side: int, told: str
) -> str:
    """Show images beside what a network makes of them.

    Args:
        folder (`Path`): Of the card.
        pairs (sequence of two `PIL.Image.Image`): Image and result.
        titles (`tuple[str, str]`): Of the row of images and of the row of results.
        side (`int`): Longer side of a picture on the page, in pixels.
        told (`str`): A sentence about both rows.

    Returns:
        `str`: Markdown.
    """
    rows = [[Print(pair[row], "") for pair in pairs] for row in (0, 1)]
    page = contact_sheet(list(zip(titles, rows, strict=True)), columns=len(pairs), side=side)
    (folder / "samples.png").write_bytes(png(page))
    return f"![{titles[0].capitalize()} and {titles[1]}](samples.png)\n\n{told}"


def memorisation_section(
    folder: Path, pictures: Sequence[Image.Image], dataset: CaptionedImages, held_out: CaptionedImages | None
) -> str:
    """Look for generated pictures among the training images.

    Args:
        folder (`Path`): Of the card.
        pictures (sequence of `PIL.Image.Image`): Generated ones.
        dataset (`CaptionedImages`): The training images, as squares.
        held_out (`CaptionedImages`, *optional*): Images that were not trained on.

    Returns:
        `str`: Markdown.
    """
    numbers = _spread(len(dataset), COMPARED_IMAGES)
    references = thumbnails([_picture(dataset, number) for number in numbers])
    found = nearest(thumbnails(pictures), references)
    training = [_picture(dataset, numbers[index]) for index in found.indices]
    (folder / "nearest_training_images.png").write_bytes(png(draw_pairs(pictures, training, found.distances)))
    others: np.ndarray | None = None
    if held_out is not None and len(held_out):
        unseen = [_picture(held_out, number) for number in _spread(len(held_out), _HELD_OUT_IMAGES)]
        others = nearest(thumbnails(unseen), references).distances
    text = memorisation_text(found.distances, others, len(numbers), len(dataset))
    return f"![Generated pictures and the nearest training images](nearest_training_images.png)\n\n{text}"


def _picture(dataset: CaptionedImages, number: int) -> Image.Image:
    return to_picture(dataset[number]["pixel_values"])


def _spread(total: int, at_most: int) -> list[int]:
    """Choose numbers below `total`, evenly."""
    count = min(total, at_most)
    return [number * total // count for number in range(count)]
