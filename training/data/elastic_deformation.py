"""Random elastic deformations of annotated images (Ronneberger et al. 2015, section 3.1), labels and image alike."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import map_coordinates, zoom

GRID_SIZE = 3
DISPLACEMENT_STD = 10.0
"""Of the random displacements, in pixels, that the paper draws on its coarse 3x3 grid."""


def displacement_field(rng: np.random.Generator, shape: tuple[int, int], std: float = DISPLACEMENT_STD) -> np.ndarray:
    """Draw a smooth field of displacements: normal ones on a 3x3 grid, bicubic between them.

    The grid's outer points lie at the corners of the image.

    Args:
        rng (`numpy.random.Generator`): Where the displacements come from.
        shape (`tuple[int, int]`): Height and width of the image, at least 2 each.
        std (`float`, defaults to 10.0): Standard deviation of a displacement along an axis, in pixels.

    Returns:
        `np.ndarray` of shape `(2, height, width)`, float64: down and right, in pixels.
    """
    coarse = rng.normal(0.0, std, (2, GRID_SIZE, GRID_SIZE))
    height, width = shape
    field: np.ndarray = _cubic_spline(height) @ coarse @ _cubic_spline(width).T
    return field


@lru_cache(maxsize=8)
def _cubic_spline(size: int) -> np.ndarray:
    """Give what each point of the grid contributes along a side: bicubic interpolation goes axis by axis."""
    return zoom(np.eye(GRID_SIZE), (size / GRID_SIZE, 1), order=3, mode="mirror", grid_mode=False)


def resampled(image: np.ndarray, places: np.ndarray, is_label: bool = False) -> np.ndarray:
    """Look an image up at some places; beyond its border it goes on as its mirror image.

    Args:
        image (`np.ndarray` of shape `(height, width)` or `(height, width, channels)`): Any dtype.
        places (`np.ndarray` of shape `(2, new_height, new_width)`): Rows and columns in the image, also between its
            pixels. `np.indices(shape) + displacement_field(rng, shape)` deforms it.
        is_label (`bool`, defaults to `False`): Take the nearest pixel, so that no label is invented; otherwise
            values are interpolated bicubically, and kept within those of the image.

    Returns:
        `np.ndarray` of shape `(new_height, new_width)` or `(new_height, new_width, channels)`, of the image's dtype.
    """
    planes = image[..., None] if image.ndim == 2 else image
    order = 0 if is_label else 3
    values = planes if is_label else planes.astype(np.float64)
    moved = np.stack(
        [map_coordinates(values[..., plane], places, order=order, mode="mirror") for plane in range(planes.shape[-1])],
        axis=-1,
    )
    if not is_label:
        moved = moved.clip(planes.min(), planes.max())
        moved = moved.round() if np.issubdtype(image.dtype, np.integer) else moved
    return moved.astype(image.dtype).reshape(places.shape[1:] + image.shape[2:])
