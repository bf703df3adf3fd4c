"""How good the classes of a segmentation's pixels are, as pure functions; `instance_metrics` looks at its objects."""

from __future__ import annotations

from collections import deque
from functools import cache

import numpy as np
from scipy import ndimage

# The neighbours of a pixel, row by row; number i is bit i of a neighbourhood.
_NEIGHBOURS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0))
_BESIDE = ndimage.generate_binary_structure(2, 1)
_BESIDE_OR_DIAGONAL = ndimage.generate_binary_structure(2, 2)


def check_maps(**maps: np.ndarray) -> None:
    """Refuse what is no pair of maps of one picture.

    Args:
        **maps (`np.ndarray`): Maps by the name that the message tells.

    Raises:
        ValueError: If a map has no pixel or holds anything but integers >= 0, or if they differ in their shape.
    """
    for name, values in maps.items():
        if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "biu":
            raise ValueError(
                f"{name} must be integers >= 0 of shape (height, width), got {values.dtype} of shape {values.shape}"
            )
        if values.min() < 0:
            raise ValueError(f"{name} must be integers >= 0, got {values.min()}")
    if len({values.shape for values in maps.values()}) > 1:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in maps.items())
        raise ValueError(f"maps of one picture must have one shape, got {shapes}")


def pixel_error(labels: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pixels that have another class than in the truth: 1 - accuracy.

    With two classes it is the squared Euclidean distance of the maps, divided by the number of pixels (pixel error of
    Jain et al. 2010 and of the ISBI 2012 challenge).

    Args:
        labels (`np.ndarray` of shape `(height, width)`, integers >= 0): Predicted classes.
        truth (`np.ndarray` of the same shape, integers >= 0): True classes.

    Returns:
        `float`: in [0, 1]; 0 is perfect.

    Raises:
        ValueError: If the maps have a wrong type, or not one shape.
    """
    check_maps(labels=labels, truth=truth)
    return float(np.mean(labels != truth))


def class_iou(labels: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Intersection over union of every class (Jaccard index).

    IoU_c = n_cc / (sum_d n_cd + sum_d n_dc - n_cc), n_cd pixels of class c in the truth and d in the prediction.

    Args:
        labels (`np.ndarray` of shape `(height, width)`, integers in [0, num_classes)): Predicted classes.
        truth (`np.ndarray` of the same shape, integers in [0, num_classes)): True classes.
        num_classes (`int`): Number of classes, at least 1.

    Returns:
        `np.ndarray` of shape `(num_classes,)`, float64, in [0, 1]; 1 is perfect. NaN for a class that occurs in
        neither map: `np.nanmean` leaves it out.

    Raises:
        ValueError: If the maps have a wrong type, or not one shape, or hold anything but classes.
    """
    check_maps(labels=labels, truth=truth)
    largest = max(int(labels.max()), int(truth.max()))
    if largest >= num_classes:
        raise ValueError(f"labels and truth must be classes from 0 to {num_classes - 1}, got {largest}")
    pairs = truth.astype(np.int64) * num_classes + labels.astype(np.int64)
    counts = np.bincount(pairs.ravel(), minlength=num_classes**2).reshape(num_classes, num_classes)
    both = np.diagonal(counts)
    either = counts.sum(0) + counts.sum(1) - both
    return np.divide(both, either, out=np.full(num_classes, np.nan), where=either > 0)


def warping_error(binary: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pixels at which a segmentation differs from the truth in topology (Jain et al. 2010).

    The error is |L - T| / n of the prediction T, n its pixels, and of that warping L of the truth which is nearest to
    T. A warping flips one simple point after another (see `warped`), so it moves borders, and neither splits, merges,
    makes nor removes objects or holes. A border in another place costs nothing. Two cells in one cost a line along the
    seam, as long as the bridge is wide; one cell in two costs a line across the gap. A hole or an invented object
    costs all of its pixels; one that is missed costs one pixel, the last that is left of it.

    No geometric limit (Jain's mask) is set, as in the ISBI 2012 challenge. What is found is a warping that no single
    flip brings nearer. A nearer one may exist, so the number is an upper bound of Jain's minimum.

    Args:
        binary (`np.ndarray` of shape `(height, width)`, bool or integers, 0 or 1): The prediction; 1 is object. Cells
            that touch with a side are one.
        truth (`np.ndarray` of the same shape, bool or integers, 0 or 1): The truth.

    Returns:
        `float`: in [0, 1]; 0 means that the truth can be warped into the prediction. An empty prediction costs one
        pixel for each true object, and for one with holes the lines around them; with an empty truth, all object
        pixels of the prediction count.

    Raises:
        ValueError: If the maps have a wrong type, or not one shape, or hold anything but 0 and 1.
    """
    check_maps(binary=binary, truth=truth)
    for name, values in (("binary", binary), ("truth", truth)):
        if values.max() > 1:
            raise ValueError(f"{name} must be 0 (background) or 1 (object) everywhere, got {values.max()}")
    return float(np.mean(warped(truth, binary) != binary))


def warped(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Flip simple points of one binary map towards another, until none that differs is simple.

    Points that differ are looked at row by row; after a flip, those around it once more, after all that wait. The
    order decides between equals: which pixel of a bridge remains. What lies outside the picture is background.

    Args:
        source (`np.ndarray` of shape `(height, width)`, 0 or 1): What is warped.
        target (`np.ndarray` of the same shape, 0 or 1): Towards what.

    Returns:
        `np.ndarray` of the same shape, bool: The warped source. It has as many objects (4-connected) and holes
        (8-connected) as before.
    """
    simple = simple_points().tolist()
    width = source.shape[1] + 2
    # Lists, since single elements of an array are slow to reach.
    pixels, wanted = (np.pad(values.astype(np.int64), 1).ravel().tolist() for values in (source, target))
    steps = [row * width + column for row, column in _NEIGHBOURS]
    waiting = deque(at for at, (is_now, shall_be) in enumerate(zip(pixels, wanted, strict=True)) if is_now != shall_be)
    while waiting:
        at = waiting.popleft()
        if pixels[at] == wanted[at] or not simple[sum(pixels[at + step] << bit for bit, step in enumerate(steps))]:
            continue
        pixels[at] = wanted[at]
        waiting.extend(at + step for step in steps if pixels[at + step] != wanted[at + step])
    return np.array(pixels, dtype=bool).reshape(-1, width)[1:-1, 1:-1]


@cache
def simple_points() -> np.ndarray:
    """Tell for every neighbourhood whether the pixel in it is simple: whether its flip keeps the topology.

    It is if T_4 = T_8 = 1 (Bertrand and Malandain 1994, the case of two dimensions). T_4 counts the 4-connected pieces
    of the objects among the eight neighbours that touch the pixel with a side, T_8 the 8-connected pieces of the
    background among them. Objects are 4-connected and background 8-connected, as in the ISBI 2012 challenge. The pixel
    itself does not count: a point that may be taken away may be put back.

    Returns:
        `np.ndarray` of shape `(256,)`, bool: Element sum_i 2^i b_i is that of the neighbours b_0 to b_7, row by row
        from above left, 1 for an object. The array is shared; do not write to it.
    """
    simple = np.zeros(256, dtype=bool)
    rows, columns = np.array(_NEIGHBOURS).T + 1
    for number in range(256):
        objects = np.zeros((3, 3), dtype=bool)
        objects[rows, columns] = [number >> bit & 1 for bit in range(8)]
        background = ~objects
        background[1, 1] = False
        pieces = ndimage.label(objects, _BESIDE)[0]
        t_4 = len(set(pieces[_BESIDE].tolist()) - {0})
        t_8 = ndimage.label(background, _BESIDE_OR_DIAGONAL)[1]
        simple[number] = t_4 == 1 and t_8 == 1
    return simple
