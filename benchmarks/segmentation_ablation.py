"""What the ideas of the 2015 U-Net are worth on `cells`: the same training without one of them at a time.

    python benchmarks/segmentation_ablation.py [--variants full padded] [--seeds 0 1] [--max-train-steps 1000]

Every run is `configs/cells.yaml` with the same updates, tiles an update and pixels a tile (padded convolutions need
sides that are multiples of 8: 168 pixels instead of 164). A seed draws the 30 training images, the weights and the
order; all are measured on the same fresh images. What is finished is not done again, so several of these commands, for
other variants, can share a folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from sd_pipeline import SegmentationPipeline
from sd_pipeline.label_maps import outlines
from training.data.cells import CellsSource
from training.evaluation.contact_sheet import Print, contact_sheet
from training.evaluation.instance_metrics import merged_neighbours, overlap_table
from training.evaluation.suite import aligned

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "cells.yaml"
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no-border-weights": {"segmentation.border_weight": 0},
    "no-weight-map": {"segmentation.border_weight": 0, "segmentation.class_balance": False},
    "no-elastic-deformation": {"segmentation.elastic_std": 0},
    "padded": {"segmentation.unet.is_padded": True, "data.resolution": 168},
}
COMPARED = ("no-border-weights", "full")
NUM_SHOWN = 3
RED, BLUE = np.array([213.0, 60.0, 0.0]), np.array([86.0, 180.0, 233.0])
MEASURES = {
    "seg": "SEG",
    "merged_neighbours": "touching cells found as one",
    "ap_50": "AP50",
    "rand_error": "Rand error",
    "mean_iou": "mean IoU",
}


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--max-train-steps", type=int, default=1000)
    parser.add_argument("--num-images", type=int, default=50, help="fresh ones, which all are measured on")
    parser.add_argument("--place", type=Path, default=Path("outputs/segmentation_ablation"))
    options = parser.parse_args(arguments)
    for seed in options.seeds:
        for variant in options.variants:
            run = options.place / f"{variant}-{seed}"
            train(run, variant, seed, options.max_train_steps)
            measure(run, options.num_images)
    print(table(options.place))
    if all((options.place / f"{name}-{options.seeds[0]}" / "pipeline").is_dir() for name in COMPARED):
        picture(options.place, options.seeds[0]).save(options.place / "border_weights.png")


def train(run: Path, variant: str, seed: int, max_train_steps: int) -> None:
    """Train a variant, or see that it is trained."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config |= {"output_dir": str(run), "seed": seed, "report_to": "none"}
    config["segmentation"] |= {"max_train_steps": max_train_steps, "validation_steps": None}
    for key, value in VARIANTS[variant].items():
        *blocks, name = key.split(".")
        place = config
        for block in blocks:
            place = place[block]
        place[name] = value
    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    command = [sys.executable, str(ROOT / "training" / "train.py"), "--config", str(file)]
    subprocess.run(command, check=True)


def measure(run: Path, num_images: int) -> None:
    """Measure a run on fresh images, unless that is done."""
    if (run / "evaluation" / "segmentation.json").exists():
        return
    command = [sys.executable, str(ROOT / "training" / "evaluate_model.py"), "--model", str(run / "pipeline")]
    command += ["--suite", "segmentation", "--dataset", "cells", "--num-prompts", str(num_images)]
    subprocess.run(command, check=True)


def table(place: Path) -> str:
    """Write what has been measured so far: the mean over the seeds, and each of them."""
    rows = [["variant", "seeds", *MEASURES.values()]]
    for variant in VARIANTS:
        files = sorted(place.glob(f"{variant}-[0-9]*/evaluation/segmentation.json"))
        found = [json.loads(file.read_text(encoding="utf-8"))["measures"] for file in files]
        values = {key: [one[key]["mean"] for one in found] for key in MEASURES}
        cells = [
            f"{np.mean(of_seeds):.4f} ({', '.join(f'{v:.4f}' for v in of_seeds)})" for of_seeds in values.values()
        ]
        if files:
            rows.append([variant, str(len(files)), *cells])
    return aligned(rows)


def picture(place: Path, seed: int) -> Image.Image:
    """Show what border weights do: the first fresh images, without and with them; red is what holds several cells."""
    source, rows = CellsSource("test", NUM_SHOWN, 0), []
    pipes = [SegmentationPipeline.from_pretrained(place / f"{name}-{seed}" / "pipeline") for name in COMPARED]
    for number in range(NUM_SHOWN):
        image, truth = source.image(number), source.labels(number)
        rows.append(Print(_shown(image, truth, truth), f"image {number}: the true cells"))
        for pipe, name in zip(pipes, COMPARED, strict=True):
            pipe.set_progress_bar_config(disable=True)
            output: Any = pipe(image)
            found = output.instances[0]
            merged = merged_neighbours(found, truth)
            rows.append(Print(_shown(image, found, truth), f"{name}: {merged:.1%} of touching cells as one"))
    title = "Without and with border weights; red: several cells found as one"
    return contact_sheet([(title, rows)], columns=1 + len(pipes), side=320)


def _shown(image: np.ndarray, found: np.ndarray, truth: np.ndarray) -> Image.Image:
    """Colour objects, those red that cover more than half of several true cells."""
    table = overlap_table(found, truth).tocoo()
    row, column = table.coords
    is_most = (2 * table.data > np.bincount(row, table.data)[row]) & (row > 0) & (column > 0)
    numbers = np.unique(found[found > 0])
    holds_several = numbers[np.bincount(column[is_most], minlength=len(numbers) + 1)[1:] > 1]
    color = np.where(np.isin(found, holds_several)[..., None], RED, BLUE)
    opacity = np.where(outlines(found), 1.0, 0.35)[..., None] * (found > 0)[..., None]
    blended = image[..., None] + (color - image[..., None]) * opacity
    return Image.fromarray(blended.round().astype(np.uint8)).resize((320, 320), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(sys.argv[1:])
