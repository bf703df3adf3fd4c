"""Telling the results of a segmentation: the table with its protocol, and the page of images beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from training.evaluation.contact_sheet import Print, contact_sheet
from training.evaluation.suite import aligned

MEASURES = {
    "seg": "SEG",
    "merged_neighbours": "touching objects found as one",
    "ap_50": "average precision at IoU 0.5",
    "ap_75": "average precision at IoU 0.75",
    "mean_ap": "average precision, mean over IoU 0.5 to 0.95",
    "mean_iou": "IoU, mean over classes",
    "pixel_error": "pixel error",
    "rand_error": "Rand error",
    "warping_error": "warping error",
}
"""What people call each measure."""

_SHOWN_FIRST, _SHOWN_RANKED = 4, 2
_SIDE = 256


def segmentation_table(results: Mapping[str, Any]) -> str:
    """Write the results of the suite `segmentation` for a person.

    Args:
        results (`Mapping[str, Any]`): As `evaluate_segmentation` makes them.

    Returns:
        `str`: Several lines, the protocol first.
    """
    measures, ceiling = results["measures"], results["ceiling"] or {}
    rows: list[tuple[str, ...]] = [("mean over images", "model", "95% interval", "target")]
    rows += [_row(text, measures[name], ceiling.get(name)) for name, text in MEASURES.items() if name in measures]
    rows += [_row(f"  IoU of {one['class']}", one) for one in results["class_iou"]]
    if not ceiling:
        rows = [row[:-1] for row in rows]
    objects = results["num_objects"]
    counted = f"{objects['found']} objects found, {objects['true']} are there"
    return "\n\n".join([_protocol(results["protocol"]), aligned(rows), counted])


def _row(text: str, of_model: Mapping[str, Any], of_target: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    interval = "-" if of_model["low"] is None else f"{of_model['low']:.5f} to {of_model['high']:.5f}"
    return text, _number(of_model["mean"]), interval, "" if of_target is None else _number(of_target["mean"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def _protocol(protocol: Mapping[str, Any]) -> str:
    tile_size = protocol["tile_size"]
    tiles = "as large as the pipeline chooses" if tile_size is None else f"of {tile_size} pixels"
    lines = [f"{protocol['num_images']} images, tiles {tiles}, seed {protocol['seed']}"]
    if protocol["label_type"] == "instances":
        lines += [
            "pixels are compared with the target of training: background in cells too, on a line where two touch",
            "objects, what is connected of the foreground, are compared with the whole true instances",
            "target: what the target of training itself would get",
        ]
    else:
        lines.append("objects, found and true, are what is connected of all classes but 0")
    return "\n".join([*lines, "95% intervals: percentile bootstrap over images"])


def shown_images(ranking: Sequence[float], measure: str) -> dict[str, list[int]]:
    """Choose what stands on the page: the first images, and those that a measure puts last and first.

    Args:
        ranking (sequence of `float`): The measure of every image, larger is better; NaN is not ranked.
        measure (`str`): Its name.

    Returns:
        `dict[str, list[int]]`: Numbers of images, by the title that they stand under; no title without an image.
    """
    values = np.asarray(ranking)
    order = [int(number) for number in np.argsort(values, kind="stable") if not np.isnan(values[number])]
    text = MEASURES[measure]
    sections = {
        "the first": list(range(len(values)))[:_SHOWN_FIRST],
        f"worst by {text}": order[:_SHOWN_RANKED],
        f"best by {text}": order[::-1][:_SHOWN_RANKED],
    }
    return {title: numbers for title, numbers in sections.items() if numbers}


def segmentation_page(
    sections: Mapping[str, Sequence[int]],
    pictures: Mapping[int, tuple[Image.Image, Image.Image]],
    captions: Mapping[int, tuple[str, str]],
) -> Image.Image:
    """Draw images with their true outlines, each beside what was found.

    Args:
        sections (`Mapping[str, Sequence[int]]`): As `shown_images` returns them.
        pictures (`Mapping[int, tuple[PIL.Image.Image, PIL.Image.Image]]`): Truth and prediction, by number of image.
        captions (`Mapping[int, tuple[str, str]]`): What stands under the two.

    Returns:
        `PIL.Image.Image`: RGB.
    """
    prints = {
        title: [
            Print(picture, caption)
            for number in numbers
            for picture, caption in zip(pictures[number], captions[number], strict=True)
        ]
        for title, numbers in sections.items()
    }
    return contact_sheet(list(prints.items()), columns=4, side=_SIDE)
