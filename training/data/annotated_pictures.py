"""An image and its cells as one picture, so that a diffusion model can draw both together.

Red is the image; green is 255 in cells, with a line between those that touch; blue is 255 in cells.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, label

from training.data.label_rules import separated

_LEAST_PIXELS = 30
_GROWTH = 2.5
_HALF = 128
# A line of two pixels comes out of an autoencoder grey. At 128, 2.0% of touching cells are one after it; at 200, 0.2%.
_INSIDE = 200


def annotated_picture(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Put an image and its cells into one picture.

    Args:
        image (`np.ndarray` of shape `(height, width)`, uint8): Grey values.
        instances (`np.ndarray` of this shape, integers of at least 0): 0 is background, every other number a cell.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`, uint8.
    """
    return np.stack([image, 255 * separated(instances), 255 * (instances > 0).astype(np.uint8)], axis=-1)


def image_and_cells(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take a picture apart, also one that was drawn by a model, with all values that are between.

    What is connected in green is a cell, unless it is smaller than 30 pixels. It gets the pixels of its blue
    surroundings that are nearest to it, up to 2.5 pixels away: the line between cells is two pixels wide.

    Args:
        picture (`np.ndarray` of shape `(height, width, 3)`, uint8): As `annotated_picture` makes it, or nearly so.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: image, uint8, and cells, int32, numbered from 1 without gaps.
    """
    image, inside, foreground = (picture[..., channel] for channel in range(3))
    cells = label(inside >= _INSIDE)[0].astype(np.int32)
    sizes = np.bincount(cells.ravel())
    kept = np.flatnonzero(sizes >= _LEAST_PIXELS)
    kept = kept[kept > 0]
    numbers = np.zeros(len(sizes), dtype=np.int32)
    numbers[kept] = np.arange(1, len(kept) + 1)
    cells = numbers[cells]
    if not len(kept):
        return image, cells
    distance, nearest = distance_transform_edt(cells == 0, return_indices=True)
    grows = (distance <= _GROWTH) & (foreground >= _HALF)
    return image, np.where(grows, cells[tuple(nearest)], cells)
