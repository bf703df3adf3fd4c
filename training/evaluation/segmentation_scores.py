"""All measures of a segmentation of one image, and their means over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from sd_pipeline.pipelines.segmentation_maps import connected_components
from training.data.label_rules import pixel_classes
from training.evaluation.instance_metrics import (
    IOU_THRESHOLDS,
    average_precision,
    merged_neighbours,
    rand_error,
    seg_measure,
)
from training.evaluation.segmentation_metrics import class_iou, pixel_error, warping_error

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Truth:
    """What an image is compared with.

    Args:
        classes (`np.ndarray` of shape `(height, width)`, integers >= 0): Class of each pixel.
        objects (`np.ndarray` of the same shape, integers >= 0): The objects; 0 is background.
        are_instances (`bool`): Whether people have told the objects apart, or they are only what is connected.
    """

    classes: np.ndarray
    objects: np.ndarray
    are_instances: bool


def truth_of(labels: np.ndarray, label_type: str) -> Truth:
    """Read the labels of an image.

    Args:
        labels (`np.ndarray` of shape `(height, width)`, integers >= 0): Of a labelled data set.
        label_type (`str`): `"instances"`: labels number the objects. Their classes are those of training, 0 and 1 with
            a line of background between objects that touch. `"classes"`: labels are classes, and objects are what is
            connected of all that is not class 0.

    Returns:
        `Truth`: The classes and the objects.
    """
    are_instances = label_type == "instances"
    objects = labels if are_instances else foreground_objects(labels)
    return Truth(pixel_classes(labels, label_type), objects, are_instances)


def foreground_objects(classes: np.ndarray) -> np.ndarray:
    """Number what is connected of all pixels whose class is not 0.

    Args:
        classes (`np.ndarray` of shape `(height, width)`, integers >= 0): Class of each pixel.

    Returns:
        `np.ndarray` of this shape, int32.
    """
    return connected_components((classes > 0).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class Scores:
    """The measures of one image; NaN is what is not defined for it.

    Args:
        measures (`dict[str, float]`): By name: `pixel_error`, `rand_error`, `warping_error`, `mean_iou` and, of
            instances, `seg`, `merged_neighbours`, `ap_50`, `ap_75` and `mean_ap`, the mean over IoU from 0.5 to 0.95.
        class_iou (`list[float]`): Intersection over union of each class.
        num_true (`int`): True objects.
        num_found (`int`): Predicted objects.
    """

    measures: dict[str, float]
    class_iou: list[float]
    num_true: int
    num_found: int


def scores_of(classes: np.ndarray, truth: Truth, num_classes: int) -> Scores:
    """Measure the segmentation of an image. Predicted objects are what is connected of its foreground.

    Args:
        classes (`np.ndarray` of shape `(height, width)`, integers in [0, num_classes)): Predicted classes.
        truth (`Truth`): Of the same image.
        num_classes (`int`): Number of classes.

    Returns:
        `Scores`: The classes are measured against the true classes, the objects against the true objects.

    Raises:
        ValueError: If the maps have not one shape, or hold anything but classes.
    """
    objects = foreground_objects(classes)
    iou = class_iou(classes, truth.classes, num_classes)
    measures = {
        "pixel_error": pixel_error(classes, truth.classes),
        "rand_error": rand_error(objects, truth.objects),
        "warping_error": warping_error(classes > 0, truth.classes > 0),
        "mean_iou": float(np.nanmean(iou)),
    }
    if truth.are_instances:
        precisions = average_precision(objects, truth.objects)
        at_iou = dict(zip(IOU_THRESHOLDS, precisions.tolist(), strict=True))
        measures |= {
            "seg": seg_measure(objects, truth.objects),
            "merged_neighbours": merged_neighbours(objects, truth.objects),
            "ap_50": at_iou[0.5],
            "ap_75": at_iou[0.75],
            "mean_ap": float(precisions.mean()),
        }
    num_true, num_found = (len(np.unique(numbers[numbers > 0])) for numbers in (truth.objects, objects))
    return Scores(measures, iou.tolist(), num_true, num_found)


def mean_of_images(values: Sequence[float], seed: int) -> dict[str, float | int | None]:
    """Average a measure over the images for which it is defined.

    Args:
        values (sequence of `float`): One an image, some of them NaN.
        seed (`int`): Of the bootstrap.

    Returns:
        `dict`: `mean`; `low` and `high`, the 95% interval of SciPy's percentile bootstrap over images; `num_images`
        that count. What there is not is `None`: everything without an image, the interval with a single one.
    """
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    low = high = None
    if len(defined) > 1:
        # Percentiles, since the other intervals are not defined where all images have one value.
        drawn = bootstrap(
            (defined,),
            np.mean,
            confidence_level=CONFIDENCE,
            method="percentile",
            batch=100,
            random_state=np.random.default_rng(seed),
        )
        low, high = (float(end) for end in drawn.confidence_interval)
    mean = float(defined.mean()) if len(defined) else None
    return {"mean": mean, "low": low, "high": high, "num_images": len(defined)}
