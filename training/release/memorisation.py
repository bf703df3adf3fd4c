"""Whether a model repeats its training images: the nearest of them to each generated picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from training.evaluation.contact_sheet import Print, contact_sheet
from training.release.samples import beside

COMPARED_SIDE = 32
"""Pictures are compared at 32x32 pixels, where small shifts and noise count little."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest training image of each picture.

    Args:
        indices (`numpy.ndarray` of shape `(num_pictures,)`, int64): Which one it is.
        distances (`numpy.ndarray` of shape `(num_pictures,)`, float64): How far it is, in [0, 1].
    """

    indices: np.ndarray
    distances: np.ndarray


def thumbnails(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Bring pictures to the size at which they are compared.

    Args:
        pictures (sequence of `PIL.Image.Image`): Any.

    Returns:
        `numpy.ndarray` of shape `(num_pictures, COMPARED_SIDE * COMPARED_SIDE * 3)`, float32, in [0, 1].
    """
    side = (COMPARED_SIDE, COMPARED_SIDE)
    small = [np.asarray(p.convert("RGB").resize(side, Image.Resampling.BOX), dtype=np.float32) for p in pictures]
    return np.stack(small).reshape(len(small), -1) / 255


def nearest(queries: np.ndarray, references: np.ndarray) -> Neighbours:
    """Find the reference with the least root mean square difference, d(a, b) = sqrt(mean((a - b)^2)).

    Args:
        queries (`numpy.ndarray` of shape `(num_queries, size)`): In [0, 1].
        references (`numpy.ndarray` of shape `(num_references, size)`): In [0, 1]; at least one.
    """
    indices, distances = [], []
    for query in queries:
        squares = np.square(references - query).mean(axis=1, dtype=np.float64)
        indices.append(int(squares.argmin()))
        distances.append(float(np.sqrt(squares.min())))
    return Neighbours(np.array(indices, dtype=np.int64), np.array(distances, dtype=np.float64))


def memorisation_text(generated: np.ndarray, held_out: np.ndarray | None, num_compared: int, num_images: int) -> str:
    """Tell what the distances say.

    Args:
        generated (`numpy.ndarray` of shape `(num_pictures,)`): Distance of each to its nearest training image.
        held_out (`numpy.ndarray` of shape `(num_held_out,)`, *optional*): The same of images that were not trained on.
        num_compared (`int`): Training images among which the nearest was sought.
        num_images (`int`): All of them.

    Returns:
        `str`: A paragraph.
    """
    among = f"all {num_images:,}" if num_compared == num_images else f"{num_compared:,} of the {num_images:,}"
    text = (
        f"Nearest among {among} training images, by root mean square difference at {COMPARED_SIDE}x{COMPARED_SIDE} "
        f"pixels (0: the same; 1: black against white). The {len(generated)} generated pictures lie "
        f"{generated.min():.3f} to {generated.max():.3f} from theirs, median {np.median(generated):.3f}. "
    )
    if held_out is None or not len(held_out):
        return text + "No images were held out to compare with."
    closer = int((generated < held_out.min()).sum())
    return text + (
        f"{len(held_out)} real images that were held out lie {held_out.min():.3f} to {held_out.max():.3f} from "
        f"theirs, median {np.median(held_out):.3f}; {closer} of the generated pictures are nearer than all of "
        "these. A model that repeats its training images is much nearer to them than new images are. Few pictures "
        "prove little: look at the pairs."
    )


def draw_pairs(
    generated: Sequence[Image.Image], training: Sequence[Image.Image], distances: np.ndarray
) -> Image.Image:
    """Draw each generated picture, on the left, beside its nearest training image.

    Args:
        generated (sequence of `PIL.Image.Image`): Pictures of one size.
        training (sequence of `PIL.Image.Image`): The nearest to each.
        distances (`numpy.ndarray` of shape `(num_pictures,)`): Between them.
    """
    prints = [
        Print(beside(left, right), f"distance {distance:.3f}")
        for left, right, distance in zip(generated, training, distances, strict=True)
    ]
    return contact_sheet([("generated | nearest training image", prints)], columns=3, side=260)
