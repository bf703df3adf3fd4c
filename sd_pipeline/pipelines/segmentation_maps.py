"""From probabilities of classes to one class and one instance for each pixel."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def most_probable(probabilities: np.ndarray) -> np.ndarray:
    """Tell the most probable class of each pixel, the first of equals.

    Args:
        probabilities (`np.ndarray` of shape `(num_classes, height, width)`): Floating point.

    Returns:
        `np.ndarray` of shape `(height, width)`, uint8, or uint16 from 257 classes on.
    """
    labels = np.empty(probabilities.shape[1:], dtype=np.min_scalar_type(len(probabilities) - 1))
    for row, target in enumerate(labels):
        target[:] = probabilities[:, row].argmax(axis=0)  # Of the whole image it would take 8 bytes a pixel.
    return labels


def connected_components(labels: np.ndarray) -> np.ndarray:
    """Number the connected components of every class but 0; pixels are connected by their edges, not by corners.

    Args:
        labels (`np.ndarray` of shape `(height, width)`): Classes, integers of at least 0.

    Returns:
        `np.ndarray` of shape `(height, width)`, int32: 0 is background; first come the components of class 1.
    """
    instances = np.zeros(labels.shape, dtype=np.int32)
    number = 0
    for label in np.unique(labels[labels > 0]):
        is_label = labels == label
        components, number_of_label = ndimage.label(is_label, output=np.int32)
        instances[is_label] = components[is_label] + number
        number += number_of_label
    return instances
