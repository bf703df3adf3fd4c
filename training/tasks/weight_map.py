"""Weights of the pixels of a segmentation (U-Net note; Ronneberger et al. 2015, eq. 2), as pure functions.

w(x) = w_c(x) + w_0 exp(-(d_1(x) + d_2(x))^2 / (2 sigma^2))

They are computed once for each picture, before training.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

BORDER_TOLERANCE = 1e-7
"""Share of w_0 below which the weight of a border is left out."""


def class_balance(num_pixels: np.ndarray) -> np.ndarray:
    """Weight every class with its inverse frequency, so that the mean over all pixels is 1.

    w_c = n / (K n_c), n pixels, n_c of class c, K classes that occur. A class without a pixel has the weight 1.

    Args:
        num_pixels (`np.ndarray` of shape `(num_classes,)`): n_c, integers of at least 0, not all 0.

    Returns:
        `np.ndarray` of shape `(num_classes,)`, float32, positive. `class_balance(...)[labels]` is w_c(x).

    Raises:
        ValueError: If there are no pixels.
    """
    if num_pixels.dtype.kind not in "iu" or (num_pixels < 0).any() or not num_pixels.any():
        raise ValueError("num_pixels must be integers of at least 0, not all 0")
    occurs = num_pixels > 0
    weights = np.ones(len(num_pixels), dtype=np.float32)
    weights[occurs] = num_pixels.sum() / (occurs.sum() * num_pixels[occurs])
    return weights


def border_weight_map(
    instances: np.ndarray, class_weights: np.ndarray | float = 1.0, w_0: float = 10.0, sigma: float = 5.0
) -> np.ndarray:
    """Weight the pixels of a picture: those between two cells that almost touch weigh most.

    w(x) = w_c(x) + w_0 exp(-(d_1(x) + d_2(x))^2 / (2 sigma^2))    (U-Net note; Ronneberger et al. 2015, eq. 2)

    d_1 and d_2 are the Euclidean distances from x to the nearest pixel of the nearest and of the second nearest cell,
    between centres of pixels; in a cell d_1 is 0. The formula holds on the whole picture, within cells too: what lies
    beside a narrow gap decides as much as the gap whether two cells are told apart. Whoever wants it between cells
    alone multiplies what is above `class_weights` by `instances == 0`. With fewer than two cells there is no border,
    and the second term is 0.

    Args:
        instances (`np.ndarray` of shape `(height, width)`): Integers: 0 is background, every other value a cell.
        class_weights (`np.ndarray` of shape `(height, width)` or `float`, defaults to 1.0): w_c(x), see
            `class_balance`.
        w_0 (`float`, defaults to 10.0): Weight of a border of no width, at least 0.
        sigma (`float`, defaults to 5.0): How fast it falls, in pixels, positive.

    Returns:
        `np.ndarray` of shape `(height, width)`, float32: w(x). Where the second term is below 1e-7 w_0 it may be 0;
        elsewhere it is exact up to rounding.

    Raises:
        ValueError: If an argument has the wrong type or shape, or is out of range.
    """
    if instances.ndim != 2 or instances.dtype.kind not in "iu" or (instances < 0).any():
        raise ValueError(f"instances must be integers >= 0 of shape (height, width), got {instances.shape}")
    if np.shape(class_weights) not in ((), instances.shape):
        raise ValueError(
            f"class_weights must be a number or of shape {instances.shape}, got {np.shape(class_weights)}"
        )
    if not (w_0 >= 0 and sigma > 0):
        raise ValueError(f"w_0={w_0} must be at least 0 and sigma={sigma} above 0")
    nearest, second = two_nearest_cells(instances, sigma * math.sqrt(-2 * math.log(BORDER_TOLERANCE)))
    border = w_0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return (class_weights + border).astype(np.float32)


def two_nearest_cells(instances: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Give the distances from every pixel to the nearest and to the second nearest cell.

    Each cell is looked at in its bounding box, widened by `reach` on all sides. A pixel outside is farther away than
    that; for a pixel inside, the whole cell is in sight and the distance is exact.

    Args:
        instances (`np.ndarray` of shape `(height, width)`): Integers >= 0; 0 is background, every other value a cell.
        reach (`float`): In pixels. Distances above it may be infinite, or those of a cell farther away.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: d_1 and d_2 of the shape of `instances`, float64, in [0, inf] pixels. There
        is no finite d_2 with one cell, and no finite d_1 with none.
    """
    margin = math.ceil(reach)
    nearest, second = np.full((2, *instances.shape), np.inf)
    # Numbered anew without gaps, since `find_objects` lists every number up to the largest.
    cells, numbered = np.unique(instances, return_inverse=True)
    numbered = numbered.reshape(instances.shape) + (0 if 0 in cells else 1)
    for number, box in enumerate(find_objects(numbered), start=1):
        crop = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)
        distance = distance_transform_edt(numbered[crop] != number)
        second[crop] = np.minimum(second[crop], np.maximum(nearest[crop], distance))
        nearest[crop] = np.minimum(nearest[crop], distance)
    return nearest, second
