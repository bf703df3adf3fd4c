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
