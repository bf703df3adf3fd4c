"""How good a segmentation is, pixel by pixel and object by object, on any labelled data set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sd_pipeline import SegmentationPipeline
from sd_pipeline.label_maps import outlines
from sd_pipeline.pipelines.segmentation_overlay import overlay
from training.data.label_rules import LABEL_TYPES
from training.data.labelled_source import LabelledSource
from training.evaluation.segmentation_report import MEASURES, segmentation_page, segmentation_table, shown_images
from training.evaluation.segmentation_scores import Scores, foreground_objects, mean_of_images, scores_of, truth_of
from training.evaluation.spreading import spread
from training.evaluation.suite import Call, Report


def evaluate_segmentation(
    pipe: SegmentationPipeline,
    source: LabelledSource,
    label_type: str,
    num_images: int,
    call: Call,
    tile_size: int | None = None,
) -> Report:
    """Segment the first images of a labelled data set, and compare with their labels.

    Training asks for a line of background between instances that touch, of the pixels on both sides of where they
    meet, so that what is connected is one instance. So a perfect prediction is a little smaller than the true
    instances. What it would get is the results' `ceiling`: on synthetic cells a SEG of 0.96. To grow what is found by
    a pixel would lower that to 0.89, since most of its border is where it should be; so nothing is grown.

    Args:
        pipe (`SegmentationPipeline`): The model, on the device of the process.
        source (`LabelledSource`): The images, which training has not seen, and their labels.
        label_type (`str`): `"instances"` or `"classes"`; of classes there is neither SEG nor average precision.
        num_images (`int`): How many.
        call (`Call`): Its batch size is that of the tiles of an image, its seed that of the intervals.
        tile_size (`int`, *optional*): Side of the tiles, in pixels; by default as the pipeline chooses.

    Returns:
        `Report`: with the picture `segmentation`, some images with true outlines beside what was found.

    Raises:
        ValueError: If there are fewer images, a number is impossible, or the labels do not fit the model or an image.
    """
    num_classes = pipe.unet.config["num_classes"]
    _check(pipe, source, label_type, num_images, tile_size)
    pipe.set_progress_bar_config(disable=True)
    segmentation = _Segmentation(pipe, source, label_type, tile_size, call.batch_size)
    started = time.monotonic()
    # One image at a time: its tiles are what fills a batch.
    found = spread(segmentation.measure, range(num_images), 1, "segmenting")
    seconds = time.monotonic() - started
    scores = [of_model for of_model, _ in found]
    are_instances = label_type == "instances"
    results: dict[str, Any] = {
        "suite": "segmentation",
        "protocol": {
            "num_images": num_images,
            "label_type": label_type,
            "num_classes": num_classes,
            "tile_size": tile_size,
            "batch_size": call.batch_size,
            "seed": call.seed,
            "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        },
        "measures": _means(scores, call.seed),
        "class_iou": [
            {"class": name, **mean_of_images([one.class_iou[number] for one in scores], call.seed)}
            for number, name in enumerate(pipe.config["class_names"] or map(str, range(num_classes)))
        ],
        "num_objects": {"true": sum(s.num_true for s in scores), "found": sum(s.num_found for s in scores)},
        "ceiling": _means([of_target for _, of_target in found], call.seed) if are_instances else None,
        "images": [{"name": source.name(number), **_row(one)} for number, one in enumerate(scores)],
        "seconds": {"segmenting": round(seconds, 1)},
    }
    page = _page(segmentation, scores, "seg" if are_instances else "mean_iou")
    return Report(results, segmentation_table(results), {"segmentation": page})


def _check(
    pipe: SegmentationPipeline, source: LabelledSource, label_type: str, num_images: int, tile_size: int | None
) -> None:
    num_classes = pipe.unet.config["num_classes"]
    if label_type not in LABEL_TYPES:
        raise ValueError(f"--label-type {label_type}: allowed: {', '.join(LABEL_TYPES)}")
    if label_type == "instances" and num_classes != 2:
        raise ValueError(f"--label-type instances: allowed for models of 2 classes, this one has {num_classes}")
    if not len(source):
        raise ValueError("--dataset-split: has no images; allowed: splits of at least one")
    if not 1 <= num_images <= len(source):
        raise ValueError(f"--num-prompts {num_images}: allowed for segmentation: 1 to {len(source)}, the images")
    if tile_size is not None:
        try:
            pipe.tiling(1, 1, tile_size)
        except ValueError as error:
            raise ValueError(f"--tile-size {tile_size}: {error}") from error


@dataclass(frozen=True)
class _Segmentation:
    """What a model finds in the images of a data set."""

    pipe: SegmentationPipeline
    source: LabelledSource
    label_type: str
    tile_size: int | None
    batch_size: int

    def classes(self, number: int) -> np.ndarray:
        image = self.source.image(number)
        labels, *_ = self.pipe(image, tile_size=self.tile_size, batch_size=self.batch_size, return_dict=False)
        return np.asarray(labels[0])

    def measure(self, numbers: Sequence[int]) -> list[tuple[Scores, Scores]]:
        """Measure what is found in images, and what would be if every pixel were as in their truth."""
        num_classes = self.pipe.unet.config["num_classes"]
        scores = []
        for number in numbers:
            truth = truth_of(self.source.labels(number), self.label_type)
            found, target = (scores_of(one, truth, num_classes) for one in (self.classes(number), truth.classes))
            scores.append((found, target))
        return scores

    def draw(self, numbers: Sequence[int]) -> list[tuple[Image.Image, Image.Image]]:
        """Draw the truth of images, as outlines, and what is found."""
        pictures = []
        for number in numbers:
            image, truth, found = self.source.image(number), self.source.labels(number), self.classes(number)
            shown = foreground_objects(found) if self.label_type == "instances" else found
            pictures.append((overlay(image, np.where(outlines(truth), truth, 0)), overlay(image, shown)))
        return pictures


def _means(scores: Sequence[Scores], seed: int) -> dict[str, Any]:
    return {name: mean_of_images([one.measures[name] for one in scores], seed) for name in scores[0].measures}


def _row(scores: Scores) -> dict[str, Any]:
    """Write the measures of an image as JSON holds them."""
    measures = {name: None if np.isnan(value) else value for name, value in scores.measures.items()}
    iou = [None if np.isnan(value) else value for value in scores.class_iou]
    return {**measures, "class_iou": iou, "num_true": scores.num_true, "num_found": scores.num_found}


def _page(segmentation: _Segmentation, scores: Sequence[Scores], measure: str) -> Image.Image:
    sections = shown_images([one.measures[measure] for one in scores], measure)
    shown = sorted({number for numbers in sections.values() for number in numbers})
    pictures = dict(zip(shown, spread(segmentation.draw, shown, 1), strict=True))
    captions = {
        number: (
            f"{Path(segmentation.source.name(number)).name}: {scores[number].num_true} true objects",
            f"{scores[number].num_found} found, {MEASURES[measure]} {scores[number].measures[measure]:.3f}",
        )
        for number in shown
    }
    return segmentation_page(sections, pictures, captions)
