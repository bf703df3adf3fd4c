"""Synthetic micrographs of touching cells, drawn by a program together with the cells' exact places."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter, label

from sd_pipeline.label_maps import outlines
from training.engine.random_streams import sample_rng

_RADIUS = (9.0, 17.0)
_TRIES = 400
# A cell is left out if less of it can be seen: by others in front of it, and in pixels.
_LEAST_SEEN, _LEAST_PIXELS = 0.75, 60
_HARMONICS = (2, 3, 4)


def sample_cells(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a micrograph: most cells touch others, light and texture are uneven, and there is noise.

    Args:
        seed (`int`): Names an endless series of micrographs.
        index (`int`): Number of the micrograph in its series, from 0.
        size (`int`): Side of the square image in pixels, at least 48.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the image, of shape `(size, size)` and uint8, and the cells, of this shape
        and int32: 0 is background, each other number, from 1 on without gaps, a connected cell. A pure function of
        the arguments.
    """
    rng = sample_rng(seed, "cells", index)
    instances = _places(rng, size)
    return _micrograph(rng, instances), instances


def _places(rng: np.random.Generator, size: int) -> np.ndarray:
    """Put cells beside each other until a part of the image, drawn too, is covered."""
    instances = np.zeros((size, size), dtype=np.int32)
    wanted = rng.uniform(0.35, 0.6) * size**2
    places: list[tuple[float, float, float]] = []
    for _ in range(_TRIES):
        if np.count_nonzero(instances) >= wanted:
            break
        radius = rng.uniform(*_RADIUS)
        if places and rng.random() < 0.75:  # Next to a cell, so that the two touch.
            y, x, other = places[rng.integers(len(places))]
            angle, distance = rng.uniform(0, 2 * math.pi), (radius + other) * rng.uniform(0.9, 1.02)
            centre = (y + distance * math.sin(angle), x + distance * math.cos(angle))
        else:
            centre = (rng.uniform(0, size), rng.uniform(0, size))
        window = tuple(slice(max(0, int(at - 1.5 * radius)), max(0, int(at + 1.5 * radius) + 1)) for at in centre)
        around = instances[window]  # Another name for a part of them.
        outline = _blob(rng, window, around.shape, centre, radius)
        free = outline & (around == 0)
        if free.sum() < max(_LEAST_SEEN * outline.sum(), _LEAST_PIXELS) or label(free)[1] != 1:
            continue
        around[free] = len(places) + 1
        places.append((*centre, radius))
    return instances


def _blob(
    rng: np.random.Generator,
    window: tuple[slice, ...],
    shape: tuple[int, ...],
    centre: tuple[float, float],
    radius: float,
) -> np.ndarray:
    """Draw the inside of a wavy ellipse, as far as it lies in a window of the image."""
    start = [side.start for side in window]
    y, x = np.indices(shape) + np.array(start)[:, None, None] - np.array(centre)[:, None, None]
    tilt, stretch = rng.uniform(0, math.pi), rng.uniform(0.75, 1.0)
    along, across = x * math.cos(tilt) + y * math.sin(tilt), (y * math.cos(tilt) - x * math.sin(tilt)) / stretch
    angle = np.arctan2(across, along)
    waves = [rng.normal(0, 0.05) * np.cos(number * angle + rng.uniform(0, 2 * math.pi)) for number in _HARMONICS]
    inside: np.ndarray = np.hypot(along, across) < radius * (1 + sum(waves))
    return inside


def _micrograph(rng: np.random.Generator, instances: np.ndarray) -> np.ndarray:
    """Light the cells unevenly, give them texture and a membrane, blur and add noise."""
    shape = instances.shape
    number = int(instances.max())
    of_cell = np.concatenate([[0.0], rng.normal(0.22, 0.05, number)])
    brightness = 0.35 + of_cell[instances]
    texture = sum(_clouds(rng, shape, sigma) * strength for sigma, strength in ((1.2, 0.05), (4.0, 0.04)))
    debris = _clouds(rng, shape, 3.0) * 0.03
    brightness += np.where(instances > 0, texture, debris)
    # A membrane is a little darker than the cells, also between two that touch: all there is to tell them apart.
    brightness -= rng.uniform(0.12, 0.18) * outlines(instances)
    light = 1 + rng.uniform(0.1, 0.3) * _slope(rng, shape) + 0.08 * _clouds(rng, shape, max(shape) / 4)
    sharp = gaussian_filter(brightness * light, rng.uniform(0.6, 0.9))
    photons = rng.uniform(150, 400)
    noisy = rng.poisson(sharp.clip(0.02) * photons) / photons + rng.normal(0, 0.015, shape)
    return (255 * noisy.clip(0, 1)).round().astype(np.uint8)


def _clouds(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Draw smooth noise of unit variance."""
    noise = gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    return noise / noise.std()


def _slope(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw a plane from -1 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = (2 * axis / side - 1 for axis, side in zip(np.indices(shape), shape, strict=True))
    return y * math.sin(angle) + x * math.cos(angle)
