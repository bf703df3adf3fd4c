"""Where in an annotated image a training tile lies: shifted, turned, mirrored and elastically deformed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from training.data.elastic_deformation import displacement_field


@dataclass(frozen=True)
class TileSize:
    """A tile of the network.

    Args:
        input_size (`int`): Side of the square that the network sees, in pixels.
        output_size (`int`): Side of the square in its middle that it segments.
    """

    input_size: int
    output_size: int

    @property
    def margin(self) -> int:
        """Width of what surrounds the output."""
        return (self.input_size - self.output_size) // 2

    @property
    def middle(self) -> slice:
        """Where, along a side of the tile, the output is."""
        return slice(self.margin, self.margin + self.output_size)


@dataclass(frozen=True)
class Augmentation:
    """What is changed about a tile at random (Ronneberger et al. 2015, section 3.1).

    Args:
        elastic_std (`float`): Standard deviation of the displacements on the 3x3 grid over the tile, in pixels.
        max_rotation (`float`): Tiles are turned by a uniform angle of at most this, in degrees, either way.
        random_flip (`bool`): Mirror every other tile.
        grey_value_std (`float`): Of the logarithm of a factor, and of an offset, of all values of a tile; in units of
            the standard deviation of its image.
    """

    elastic_std: float = 0.0
    max_rotation: float = 0.0
    random_flip: bool = False
    grey_value_std: float = 0.0


def random_start(rng: np.random.Generator, image_size: int, output_size: int) -> int:
    """Draw where along a side of an image the output of a tile begins: anywhere in the image, as far as it goes.

    In a smaller image it begins before it, so that the whole image is in the output.

    Args:
        rng (`numpy.random.Generator`): Where it comes from.
        image_size (`int`): Side of the image.
        output_size (`int`): Side of the output.
    """
    free = image_size - output_size
    return int(rng.integers(min(free, 0), max(free, 0), endpoint=True))


def centred_start(image_size: int, output_size: int) -> int:
    """Tell where along a side of an image the output of a tile in its middle begins."""
    return (image_size - output_size) // 2


def tile_places(starts: tuple[int, int], size: TileSize) -> np.ndarray:
    """Give the places of an image that an unchanged tile looks at.

    Args:
        starts (`tuple[int, int]`): Row and column of the first pixel of its output.
        size (`TileSize`): Its sides.

    Returns:
        `np.ndarray` of shape `(2, input_size, input_size)`, float64: rows and columns, for `resampled`.
    """
    grid = np.indices((size.input_size, size.input_size)).astype(np.float64)
    return grid + np.array(starts)[:, None, None] - size.margin


def moved_places(rng: np.random.Generator, places: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Deform a tile, turn it about its centre and mirror it, each as it is drawn.

    Args:
        rng (`numpy.random.Generator`): Where the draws come from.
        places (`np.ndarray` of shape `(2, height, width)`): As `tile_places` gives them.
        augmentation (`Augmentation`): How far.

    Returns:
        `np.ndarray` of the same shape.
    """
    shape = (places.shape[1], places.shape[2])
    angle = math.radians(rng.uniform(-1, 1) * augmentation.max_rotation)
    side = -1.0 if rng.random() < 0.5 and augmentation.random_flip else 1.0
    centre = (places[:, :1, :1] + places[:, -1:, -1:]) / 2
    offset = places - centre
    if augmentation.elastic_std:
        offset = offset + displacement_field(rng, shape, augmentation.elastic_std)
    down, right = offset[0], side * offset[1]
    cos, sin = math.cos(angle), math.sin(angle)
    return centre + np.stack([cos * down - sin * right, sin * down + cos * right])


def changed_grey_values(rng: np.random.Generator, pixel_values: np.ndarray, std: float) -> np.ndarray:
    """Change contrast and brightness: x' = exp(std n_1) x + std n_2, with standard normal n_1 and n_2.

    Args:
        rng (`numpy.random.Generator`): Where the numbers come from.
        pixel_values (`np.ndarray`): Floating point, of zero mean and unit variance over the image.
        std (`float`): 0 changes nothing.

    Returns:
        `np.ndarray`: Of the same shape and dtype.
    """
    contrast, brightness = rng.standard_normal(2)
    return (pixel_values * math.exp(std * contrast) + std * brightness).astype(pixel_values.dtype)
