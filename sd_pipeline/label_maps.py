"""Maps of labels: what can be told of instances without their image."""

from __future__ import annotations

import numpy as np


def outlines(instances: np.ndarray) -> np.ndarray:
    """Find the pixels of instances that have another instance, or background, at one of their four edges.

    Args:
        instances (`np.ndarray` of shape `(height, width)`): Integers, 0 is background.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool. The edge of the image alone makes no outline.
    """
    found = np.zeros(instances.shape, dtype=bool)
    below, beside = instances[1:] != instances[:-1], instances[:, 1:] != instances[:, :-1]
    found[1:] |= below
    found[:-1] |= below
    found[:, 1:] |= beside
    found[:, :-1] |= beside
    return found & (instances > 0)


def touching_pairs(instances: np.ndarray) -> np.ndarray:
    """List the pairs of instances that meet at an edge of pixels.

    Args:
        instances (`np.ndarray` of shape `(height, width)`): Integers of at least 0, 0 is background.

    Returns:
        `np.ndarray` of shape `(num_pairs, 2)`, of their dtype: the smaller number first, each pair once, sorted.
    """
    sides = [(instances[1:], instances[:-1]), (instances[:, 1:], instances[:, :-1])]
    meeting = np.concatenate([np.stack([one.ravel(), other.ravel()], axis=1) for one, other in sides])
    apart = (meeting[:, 0] != meeting[:, 1]) & (meeting > 0).all(axis=1)
    return np.unique(np.sort(meeting[apart], axis=1), axis=0)
