"""How good the objects of a segmentation are, as pure functions of two maps of instances.

Numbers of objects are names: another numbering changes no measure. Everything is read from one table of overlaps. A
measure that is not defined is NaN, so that `np.nanmean` over pictures leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import maximum_bipartite_matching

from sd_pipeline.label_maps import touching_pairs
from training.evaluation.segmentation_metrics import check_maps

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""0.5, 0.55, ..., 0.95: those of the 2018 Data Science Bowl."""


def overlap_table(instances: np.ndarray, truth: np.ndarray) -> sparse.csr_array:
    """Count the pixels that every true object shares with every predicted one.

    Args:
        instances (`np.ndarray` of shape `(height, width)`, integers >= 0): Predicted objects; 0 is background.
        truth (`np.ndarray` of the same shape, integers >= 0): True objects; 0 is background.

    Returns:
        `scipy.sparse.csr_array` of shape `(true objects + 1, predicted objects + 1)`, int64: Row and column 0 are
        background, whether it occurs or not; the others are the objects by rising number. Sums of rows and columns
        are the areas.

    Raises:
        ValueError: If the maps have a wrong type, or not one shape.
    """
    check_maps(instances=instances, truth=truth)
    rows, columns = _without_gaps(truth), _without_gaps(instances)
    pixels = (np.ones(truth.size, dtype=np.int64), (rows, columns))
    return sparse.coo_array(pixels, shape=(rows.max() + 1, columns.max() + 1)).tocsr()


def _without_gaps(objects: np.ndarray) -> np.ndarray:
    """Number the objects from 1 on, and keep 0 for the background; as one row of pixels."""
    numbers, index = np.unique(objects, return_inverse=True)
    return index.ravel() + (0 if numbers[0] == 0 else 1)


def rand_error(instances: np.ndarray, truth: np.ndarray) -> float:
    """1 minus the foreground-restricted Rand F-score (V^Rand with alpha = 1/2 of Arganda-Carreras et al. 2015, eq. 3).

    1 - sum_ij p_ij^2 / (1/2 sum_i s_i^2 + 1/2 sum_j t_j^2)

    p_ij is the share of pixels in object i of the prediction and j of the truth, s_i = sum_j p_ij, t_j = sum_i p_ij.
    In words: of the pairs of pixels, how well those that lie in one object of the prediction are those that lie in
    one object of the truth. Only pixels within the objects of the truth count, so width and place of background
    between cells matter little. Where the prediction has background there, each pixel is an object of its own, as in
    the challenge's code (Fiji, `RandError.foregroundRestrictedStatsN2`): it is in no pair but that with itself.
    Borders are not thinned before; objects are taken as they are given.

    Args:
        instances (`np.ndarray` of shape `(height, width)`, integers >= 0): Predicted objects; 0 is background.
        truth (`np.ndarray` of the same shape, integers >= 0): True objects; 0 is background.

    Returns:
        `float`: in [0, 1); 0 is perfect. NaN if the truth has no object. An empty prediction has, of n pixels in the
        truth's objects, 1 - 2 / (1 + n sum_j t_j^2), which is near 1.

    Raises:
        ValueError: If the maps have a wrong type, or not one shape.
    """
    table = overlap_table(instances, truth)[1:]
    if table.shape[0] == 0:
        return math.nan
    objects = table[:, 1:]
    alone = table.sum() - objects.sum()
    p = (objects.data**2).sum() + alone
    s = (objects.sum(axis=0) ** 2).sum() + alone
    t = (table.sum(axis=1) ** 2).sum()
    return float(1 - 2 * p / (s + t))


def rand_index_error(instances: np.ndarray, truth: np.ndarray) -> float:
    """1 minus the Rand index (Rand 1971): share of the pairs of pixels on which prediction and truth disagree.

    Two pixels are in one object in the one map, and in two objects in the other. In contrast to `rand_error`, all
    pixels count, and background is an object like any other, so most pairs agree by themselves: with many cells the
    number is small for everybody.

    Args:
        instances (`np.ndarray` of shape `(height, width)`, integers >= 0): Predicted objects; 0 is background.
        truth (`np.ndarray` of the same shape, integers >= 0): True objects; 0 is background.

    Returns:
        `float`: in [0, 1]; 0 is perfect. NaN for a single pixel, which has no pair.

    Raises:
        ValueError: If the maps have a wrong type, or not one shape.
    """
    table = overlap_table(instances, truth)
    if truth.size == 1:
        return math.nan
    in_one = (table.sum(axis=0) ** 2).sum() + (table.sum(axis=1) ** 2).sum()
    return float((in_one - 2 * (table.data**2).sum()) / (truth.size * (truth.size - 1)))


def seg_measure(instances: np.ndarray, truth: np.ndarray) -> float:
    """SEG of the Cell Tracking Challenge (Maska et al. 2014): mean Jaccard index of the true objects.

    J = |R n S| / |R u S| of a true object R and the predicted object S that covers more than half of it,
    |R n S| > |R| / 2, so there is at most one; 0 where there is none. Invented objects cost nothing, and two true
    objects may share one prediction.

    Args:
        instances (`np.ndarray` of shape `(height, width)`, integers >= 0): Predicted objects; 0 is background.
        truth (`np.ndarray` of the same shape, integers >= 0): True objects; 0 is background.

    Returns:
        `float`: in [0, 1]; 1 is perfect. NaN if the truth has no object; 0 for an empty prediction of one that has.

    Raises:
        ValueError: If the maps have a wrong type, or not one shape.
    """
    table = overlap_table(instances, truth)
    count = table.shape[0] - 1
    if count == 0:
        return math.nan
    both, either, row, _ = _overlaps(table)
    covers = 2 * both > table.sum(axis=1)[1:][row]
    return float((both[covers] / either[covers]).sum() / count)


def merged_neighbours(instances: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pairs of touching true objects that are one in the prediction: what a border weight is to prevent.

    Two true objects touch if they meet at an edge of pixels. They are one if the same predicted object covers more
    than half of each.

    Args:
        instances (`np.ndarray` of shape `(height, width)`, integers >= 0): Predicted objects; 0 is background.
        truth (`np.ndarray` of the same shape, integers >= 0): True objects; 0 is background.

    Returns:
        `float`: in [0, 1]; 0 is perfect. NaN if no true objects touch.

    Raises:
        ValueError: If the maps have a wrong type, or not one shape.
    """
    table = overlap_table(instances, truth)
    pairs = touching_pairs(_without_gaps(truth).reshape(truth.shape))
    if not len(pairs):
        return math.nan
    overlaps = table.tocoo()
    row, column = overlaps.coords
    is_most = 2 * overlaps.data > table.sum(axis=1)[row]
    covering = np.zeros(table.shape[0], dtype=np.int64)  # 0 where background, or nothing alone, covers most.
    covering[row[is_most]] = column[is_most]
    one, other = covering[pairs].T
    return float(np.mean((one == other) & (one > 0)))


def average_precision(
    instances: np.ndarray, truth: np.ndarray, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> np.ndarray:
    """Average precision of the objects as in the 2018 Data Science Bowl, StarDist and Cellpose: TP / (TP + FP + FN).

    A true and a predicted object match if their intersection over union is at least the threshold, one with one.
    Above 0.5 no object has two partners; up to 0.5, as many match as can. TP counts the matches, FP and FN the
    predicted and the true objects that are left. The Bowl's score of a picture is the mean over the thresholds; its
    text asks for more than the threshold, StarDist and Cellpose for at least as much.

    Args:
        instances (`np.ndarray` of shape `(height, width)`, integers >= 0): Predicted objects; 0 is background.
        truth (`np.ndarray` of the same shape, integers >= 0): True objects; 0 is background.
        thresholds (sequence of `float`, defaults to `IOU_THRESHOLDS`): In (0, 1].

    Returns:
        `np.ndarray` of shape `(len(thresholds),)`, float64, in [0, 1]; 1 is perfect. NaN if neither map has an
        object, 0 if only one of them has.

    Raises:
        ValueError: If the maps have a wrong type, or not one shape, or a threshold is out of range.
    """
    wrong = [threshold for threshold in thresholds if not 0 < threshold <= 1]
    if wrong:
        raise ValueError(f"thresholds must lie above 0 and at most at 1, got {wrong[0]}")
    table = overlap_table(instances, truth)
    true, predicted = table.shape[0] - 1, table.shape[1] - 1
    if true == predicted == 0:
        return np.full(len(thresholds), np.nan)
    both, either, row, column = _overlaps(table)
    scores = np.zeros(len(thresholds))
    for number, threshold in enumerate(thresholds):
        good = both / either >= threshold
        if good.any():
            pairs = sparse.csr_array((good[good], (row[good], column[good])), shape=(true, predicted))
            matches = np.count_nonzero(maximum_bipartite_matching(pairs) >= 0)
            scores[number] = matches / (true + predicted - matches)
    return scores


def _overlaps(table: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """List the objects that overlap: pixels in both, pixels in either, index of the true and of the predicted one."""
    pairs = table[1:, 1:].tocoo()
    # SciPy 1.14 matches indices of 32 bits only.
    row, column = (index.astype(np.int32) for index in pairs.coords)
    areas = table.sum(axis=1)[1:][row] + table.sum(axis=0)[1:][column]
    return pairs.data, areas - pairs.data, row, column
