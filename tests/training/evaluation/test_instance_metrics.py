"""Measures of the objects of a segmentation against values known by hand, and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tests.training.evaluation.test_segmentation_metrics import (
    MERGED,
    MISSED,
    NOTHING,
    PAIR,
    assert_wrong_maps_are_refused,
    drawing,
)
from training.evaluation.instance_metrics import (
    IOU_THRESHOLDS,
    average_precision,
    merged_neighbours,
    overlap_table,
    rand_error,
    rand_index_error,
    seg_measure,
)

MEASURES = (rand_error, rand_index_error, seg_measure, average_precision, merged_neighbours)
SPLIT = np.where((PAIR == 1) & (np.arange(12) >= 4), 3, PAIR)
INVENTED = PAIR.copy()
INVENTED[0, 0] = 5
SHIFTED = np.roll(PAIR, 1, axis=0)


def random_maps(seed: int, shape: tuple[int, int] = (5, 6), largest: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, largest + 1, shape), rng.integers(0, largest + 1, shape)


def test_overlap_table():
    np.testing.assert_array_equal(overlap_table(SPLIT, PAIR).toarray(), [[64, 0, 0, 0], [0, 8, 0, 8], [0, 0, 16, 0]])
    # Without a pixel of background its row and column are there, and empty.
    np.testing.assert_array_equal(
        overlap_table(np.full((2, 3), 7), np.full((2, 3), 10**6)).toarray(), [[0, 0], [0, 6]]
    )
    assert overlap_table(NOTHING, NOTHING).toarray().tolist() == [[96]]


@pytest.mark.parametrize(
    ("instances", "error"),
    [
        (PAIR, 0),
        (MERGED, 1 - 2 * 512 / (1024 + 512)),
        (SPLIT, 1 - 2 * 384 / (384 + 512)),
        (MISSED, 1 - 2 * (256 + 16) / (256 + 16 + 512)),
        (INVENTED, 0),  # Outside the objects of the truth nothing counts.
        (SHIFTED, 1 - 2 * (2 * 144 + 8) / (2 * 144 + 8 + 512)),
        (NOTHING, 1 - 2 * 32 / (32 + 512)),
        (np.ones_like(PAIR), 1 - 2 * 512 / (1024 + 512)),
    ],
)
def test_rand_error(instances, error):
    assert rand_error(instances, PAIR) == pytest.approx(error, abs=1e-15)


@pytest.mark.parametrize(
    ("instances", "pairs"),
    [
        (PAIR, 0),
        (MERGED, 16 * 16),
        (SPLIT, 8 * 8),
        (MISSED, 16 * 64),
        (INVENTED, 63),
        (NOTHING, 16 * 16 + 32 * 64),
    ],
)
def test_rand_index_error(instances, pairs):
    assert rand_index_error(instances, PAIR) == pytest.approx(pairs / (96 * 95 / 2), abs=1e-15)


@pytest.mark.parametrize("seed", range(8))
def test_rand_measures_are_those_of_all_pairs_of_pixels(seed):
    instances, truth = random_maps(seed)
    pixels = list(zip(instances.ravel(), truth.ravel(), strict=True))
    predicted = actual = common = 0
    inside = [(i, j) for i, j in pixels if j != 0]
    for (a, x), (b, y) in itertools.product(enumerate(inside), repeat=2):
        in_one_predicted = a == b or (x[0] == y[0] != 0)
        in_one_true = x[1] == y[1]
        predicted += in_one_predicted
        actual += in_one_true
        common += in_one_predicted and in_one_true
    precision, recall = common / predicted, common / actual
    f_score = 2 * precision * recall / (precision + recall)
    assert rand_error(instances, truth) == pytest.approx(1 - f_score, abs=1e-12)
    differ = [(x[0] == y[0]) != (x[1] == y[1]) for x, y in itertools.combinations(pixels, 2)]
    assert rand_index_error(instances, truth) == pytest.approx(np.mean(differ), abs=1e-12)


@pytest.mark.parametrize(
    ("instances", "seg"),
    [
        (PAIR, 1),
        (MERGED, (1 / 2 + 1 / 2) / 2),
        (SPLIT, (0 + 1) / 2),  # Half of a cell is not more than half.
        (MISSED, 1 / 2),
        (INVENTED, 1),
        (SHIFTED, 12 / 20),
        (NOTHING, 0),
    ],
)
def test_seg_measure(instances, seg):
    assert seg_measure(instances, PAIR) == seg


@pytest.mark.parametrize(
    ("instances", "scores"),
    [
        (PAIR, [1] * 10),
        (MERGED, [1 / 2] + [0] * 9),  # IoU 1/2 with both, and one of them.
        (SPLIT, [2 / 3] + [1 / 4] * 9),  # Both halves have 1/2 of the first: one matches at 0.5.
        (MISSED, [1 / 2] * 10),
        (INVENTED, [2 / 3] * 10),
        (SHIFTED, [1] * 3 + [0] * 7),  # IoU 0.6.
        (NOTHING, [0] * 10),
    ],
)
def test_average_precision(instances, scores):
    np.testing.assert_array_equal(average_precision(instances, PAIR), scores)


def test_thresholds():
    np.testing.assert_array_equal(IOU_THRESHOLDS, [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
    np.testing.assert_array_equal(average_precision(SHIFTED, PAIR, (0.6, 0.6001, 1)), [1, 0, 0])
    assert average_precision(PAIR, PAIR, (1,)) == [1]


def test_as_many_objects_match_as_can():
    """The second prediction has its best overlap with the first object, and is needed by the other."""
    truth = drawing("1111122222")
    predicted = drawing("1122222...")
    # IoU: 2/5 and 3/7 with the first object, 2/8 of the second prediction with the other.
    np.testing.assert_array_equal(average_precision(predicted, truth, (0.25, 0.3, 0.42, 0.43)), [1, 1 / 3, 1 / 3, 0])


@pytest.mark.parametrize("seed", range(4))
def test_matches_are_those_of_all_assignments(seed):
    instances, truth = random_maps(seed, (4, 4))
    table = overlap_table(instances, truth).toarray()
    areas = table.sum(1)[1:, None] + table.sum(0)[None, 1:]
    iou = table[1:, 1:] / (areas - table[1:, 1:])
    for threshold in (0.1, 0.2, 0.3, 0.5):
        columns = range(iou.shape[1])
        most = max(
            sum(iou[row, column] >= threshold for row, column in enumerate(order))
            for order in itertools.permutations(columns)
        )
        assert iou.shape == (3, 3)
        assert average_precision(instances, truth, (threshold,)) == most / (6 - most)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("seed", range(3))
def test_numbers_of_objects_are_names(measure, seed):
    instances, truth = random_maps(seed, (12, 12), 5)
    names = np.array([0, 900, 3, 77, 10**9, 1])
    np.testing.assert_array_equal(measure(names[instances], truth), measure(instances, truth))
    np.testing.assert_array_equal(measure(instances, names[truth]), measure(instances, truth))


def test_touching_objects_that_are_found_as_one():
    truth = np.array([[1, 1, 2, 2, 0, 3, 3], [1, 1, 2, 2, 0, 3, 4]])  # 1 and 2 touch, 3 and 4; 2 and 3 do not.
    assert merged_neighbours(truth, truth) == 0
    assert merged_neighbours((truth > 0).astype(int), truth) == 1
    assert merged_neighbours(np.where(truth == 2, 1, truth), truth) == 0.5
    half_of_2 = np.array([[1, 1, 1, 0, 0, 3, 3], [1, 1, 1, 0, 0, 3, 4]])
    assert merged_neighbours(half_of_2, truth) == 0  # Half is not more than half.
    assert merged_neighbours(np.zeros_like(truth), truth) == 0
    assert math.isnan(merged_neighbours(truth, np.array([[1, 0, 2, 0, 3, 0, 4]] * 2)))


def test_what_is_not_defined_is_nan():
    for predicted in (NOTHING, PAIR):
        assert math.isnan(rand_error(predicted, NOTHING))
        assert math.isnan(seg_measure(predicted, NOTHING))
    assert np.isnan(average_precision(NOTHING, NOTHING)).all()
    np.testing.assert_array_equal(average_precision(PAIR, NOTHING), np.zeros(10))
    assert rand_index_error(NOTHING, NOTHING) == 0
    assert math.isnan(rand_index_error(NOTHING[:1, :1], NOTHING[:1, :1]))


@pytest.mark.parametrize("measure", [overlap_table, *MEASURES])
def test_wrong_maps(measure):
    assert_wrong_maps_are_refused(measure)


def test_wrong_thresholds():
    for threshold in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match="thresholds must lie above 0"):
            average_precision(PAIR, PAIR, (0.5, threshold))
