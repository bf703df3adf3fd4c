"""Measures of networks whose answers are known: they threshold the image, so what they find is drawn by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from tests.training.evaluation.thresholding import thresholding_pipeline
from training.data.cells import CellsSource
from training.data.label_rules import separated
from training.evaluation.instance_metrics import seg_measure
from training.evaluation.segmentation_report import shown_images
from training.evaluation.segmentation_scores import foreground_objects, mean_of_images, scores_of, truth_of
from training.evaluation.suite import Call, Report
from training.evaluation.suite_segmentation import evaluate_segmentation

SIDE = 16
NUM_PIXELS = SIDE**2
TWO_CELLS = np.zeros((SIDE, SIDE), np.int32)
TWO_CELLS[2:8, 2:6], TWO_CELLS[2:8, 6:10] = 1, 2
NOTHING = np.zeros((SIDE, SIDE), np.int32)


class Drawn:
    """Labelled images that lie in memory."""

    def __init__(self, *pairs: tuple[np.ndarray, np.ndarray]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def image(self, index: int) -> np.ndarray:
        return (self.pairs[index][0] * 255).astype(np.uint8)

    def labels(self, index: int) -> np.ndarray:
        return self.pairs[index][1]

    def name(self, index: int) -> str:
        return f"/somewhere/drawn {index}"


DRAWN = Drawn((separated(TWO_CELLS), TWO_CELLS), (TWO_CELLS > 0, TWO_CELLS), (NOTHING, NOTHING))
"""Found as training asks for it; two cells found as one; and nothing, where there is nothing."""


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate_segmentation(thresholding_pipeline(), DRAWN, "instances", 3, Call(seed=5, batch_size=2))


def test_measures_are_those_worked_out_by_hand(report):
    results = json.loads(json.dumps(report.results, allow_nan=False))
    target, merged, empty = results["images"]
    # Of each cell of 24 pixels a column of 6 is background; its pixels are alone in no object.
    pairs = (2 * 18**2 + 12, 2 * 24**2)
    assert target == {
        "name": "/somewhere/drawn 0",
        "pixel_error": 0.0,
        "rand_error": pytest.approx(1 - 2 * pairs[0] / sum(pairs)),
        "warping_error": 0.0,
        "mean_iou": 1.0,
        "seg": 0.75,
        "merged_neighbours": 0.0,
        "ap_50": 1.0,
        "ap_75": 1.0,
        "mean_ap": pytest.approx(0.6),
        "class_iou": [1.0, 1.0],
        "num_true": 2,
        "num_found": 2,
    }
    assert merged["merged_neighbours"] == 1.0
    assert merged["pixel_error"] == 12 / NUM_PIXELS
    assert merged["warping_error"] == 6 / NUM_PIXELS, "a line between the two"
    assert (merged["seg"], merged["ap_50"], merged["ap_75"]) == (0.5, 0.5, 0.0)
    assert merged["class_iou"] == [pytest.approx(208 / 220), pytest.approx(36 / 48)]
    assert (merged["num_true"], merged["num_found"]) == (2, 1)
    assert [empty[name] for name in ("seg", "mean_ap", "rand_error")] == [None] * 3
    assert (empty["pixel_error"], empty["mean_iou"], empty["class_iou"]) == (0.0, 1.0, [1.0, None])


def test_means_are_over_the_images_that_have_the_measure(report):
    results = report.results
    measures = results["measures"]
    assert measures["seg"] == {"mean": 0.625, "low": 0.5, "high": 0.75, "num_images": 2}
    assert measures["pixel_error"]["mean"] == pytest.approx(4 / NUM_PIXELS)
    assert measures["pixel_error"]["num_images"] == 3
    assert [one["num_images"] for one in results["class_iou"]] == [3, 2]
    assert results["num_objects"] == {"true": 4, "found": 3}
    ceiling = results["ceiling"]
    assert (ceiling["seg"]["mean"], ceiling["pixel_error"]["mean"], ceiling["mean_iou"]["mean"]) == (0.75, 0.0, 1.0)
    assert results["protocol"]["tile_size"] is None


def test_the_table_tells_them(report):
    lines = report.table.splitlines()
    row = next(line for line in lines if line.startswith("SEG"))
    assert row.split() == ["SEG", "0.62500", "0.50000", "to", "0.75000", "0.75000"]
    assert lines[0] == "3 images, tiles as large as the pipeline chooses, seed 5"
    assert lines[-1] == "3 objects found, 4 are there"
    assert "  IoU of 1" in report.table


def test_the_page_shows_first_worst_and_best():
    assert shown_images([0.5, math.nan, 0.9, 0.1, 0.8, 0.2], "seg") == {
        "the first": [0, 1, 2, 3],
        "worst by SEG": [3, 5],
        "best by SEG": [2, 4],
    }
    assert shown_images([math.nan], "mean_iou") == {"the first": [0]}


def test_the_page_is_large_enough_for_pairs(report):
    page = report.pictures["segmentation"]
    assert page.width > 4 * 256
    assert page.height > 4 * 256


def test_classes_have_no_instances():
    """Objects are what is connected of all classes but 0."""
    labels = NOTHING.copy()
    labels[2:5, 2:8], labels[5:8, 2:8], labels[12, 12] = 1, 2, 2
    blind = np.where(labels == 2, 0, labels)
    pipe = thresholding_pipeline(3, class_names=["background", "cell", "border"])
    source = Drawn((labels / 2, labels), (blind / 2, labels))
    results = evaluate_segmentation(pipe, source, "classes", 2, Call(batch_size=1)).results
    seen, missed = results["images"]
    assert (seen["mean_iou"], seen["rand_error"], seen["num_true"], seen["num_found"]) == (1.0, 0.0, 2, 2)
    assert missed["class_iou"] == [pytest.approx(219 / 238), 1.0, 0.0]
    assert missed["pixel_error"] == 19 / NUM_PIXELS
    assert missed["num_found"] == 1
    assert "seg" not in seen
    assert results["ceiling"] is None
    assert [one["class"] for one in results["class_iou"]] == ["background", "cell", "border"]


def test_tiles_change_nothing(report):
    pipe = thresholding_pipeline()
    tiled = evaluate_segmentation(pipe, DRAWN, "instances", 3, Call(seed=5, batch_size=7), tile_size=8)
    assert tiled.results["images"] == report.results["images"]
    assert "tiles of 8 pixels" in tiled.table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("instances", 0), "--num-prompts 0: allowed for segmentation: 1 to 3"),
        (("instances", 4), "--num-prompts 4: allowed for segmentation: 1 to 3"),
        (("cells", 1), "--label-type cells: allowed: instances, classes"),
        (("classes", 1, 3), "--tile-size 3: .*allowed: 5, 6, 7"),
        (("classes", 1, 0), "--tile-size 0: "),
    ],
)
def test_what_cannot_be_measured(arguments, message):
    label_type, num_images, *tile_size = arguments
    with pytest.raises(ValueError, match=message):
        evaluate_segmentation(thresholding_pipeline(), DRAWN, label_type, num_images, Call(), *tile_size)


def test_instances_are_of_one_class():
    with pytest.raises(ValueError, match="--label-type instances: allowed for models of 2 classes, this one has 3"):
        evaluate_segmentation(thresholding_pipeline(3), DRAWN, "instances", 1, Call())


def test_intervals():
    values = np.random.default_rng(0).normal(3, 2, 400).tolist()
    found = mean_of_images([*values, math.nan], 1)
    assert found["num_images"] == 400
    assert found["mean"] == pytest.approx(np.mean(values))
    for end, sign in (("low", -1), ("high", 1)):
        assert found[end] == pytest.approx(np.mean(values) + sign * 1.96 * np.std(values) / 20, abs=0.02)
    assert mean_of_images(values, 1) == mean_of_images(values, 1)
    assert mean_of_images([0.5] * 5, 0) == {"mean": 0.5, "low": 0.5, "high": 0.5, "num_images": 5}
    assert mean_of_images([0.5], 0) == {"mean": 0.5, "low": None, "high": None, "num_images": 1}
    assert mean_of_images([math.nan], 0) == {"mean": None, "low": None, "high": None, "num_images": 0}


def test_the_target_of_training_is_near_the_true_cells():
    """So what is found need not be grown; by a pixel on all sides, it would be too large."""
    source = CellsSource("test", 3)
    for index in range(3):
        truth = truth_of(source.labels(index), "instances")
        scores = scores_of(truth.classes, truth, 2)
        assert scores.measures["seg"] > 0.94
        assert scores.measures["ap_75"] > 0.97
        assert scores.measures["rand_error"] < 0.05
        assert abs(scores.num_found - scores.num_true) <= 1
        found = foreground_objects(truth.classes)
        distance, nearest = distance_transform_edt(found == 0, return_indices=True)
        assert seg_measure(np.where(distance <= 1, found[tuple(nearest)], 0), truth.objects) < 0.92
