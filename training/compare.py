"""Say whether one model is better than another: the denoising errors of both on the same images with the same noise.

    accelerate launch training/compare.py outputs/first outputs/second
    accelerate launch training/compare.py pretrained/shapes-64 outputs/mine/pipeline --dataset shapes

A and B are folders of runs or of pipelines, models of this package, or names on the Hub. Prints a table and writes
`compare.json`. Processes of a launcher share the work, and find the same however many they are. Exit code 2 is bad
input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from diffusers.utils import logging

from sd_pipeline.argument_parser import ArgumentParser
from training.compared_data import compared_data
from training.data.held_out_draws import NUM_STRATA
from training.engine.checkpointing import write_json
from training.engine.timestep_losses import range_of_timesteps, timestep_ranges
from training.evaluation.comparable_models import check_comparable, load_model, pipeline_of
from training.evaluation.denoising_errors import DenoisingErrors
from training.evaluation.paired_comparison import compare_errors
from training.evaluation.results_folder import check_writable, default_output
from training.evaluation.spreading import measured, process_state, spread


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""

    def measure(device: torch.device) -> tuple[Path, str, dict[str, Any]]:
        options = parse_options(arguments)
        output = options.output or default_output(pipeline_of(options.b))
        check_writable(output)
        return output, *compare(options, device)

    found = measured(measure)
    if found is None:
        return 2
    output, table, results = found
    if process_state().is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_json(results, output / "compare.json")
        print(f"{table}\n\nwritten: {output / 'compare.json'}")
    return 0


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description="Say whether model B is better than model A.")
    add = parser.add_argument
    add("a", metavar="A", help="folder of a run or of a pipeline, or a name on the Hub")
    add("b", metavar="B", help="likewise")
    add("--dataset", metavar="NAME_OR_FOLDER", help="whose images (default: that of A, if it is a run)")
    add("--dataset-split", choices=["train", "validation"], default="validation", help="default: validation")
    add("--image-column", help="default: that of A's run with its data set, otherwise image")
    add("--caption-column", help="default: that of A's run with its data set, otherwise text")
    add("--resolution", type=int, help="of the images (default: what the models make)")
    add("--num-images", type=int, help="how many of the first images (default: 256, or all there are)")
    add("--num-timesteps", type=int, default=NUM_STRATA, help=f"of each image (default: {NUM_STRATA})")
    add("--batch-size", type=int, default=32, help="images at a time (default: 32)")
    add("--output", type=Path, help="folder of the results (default: evaluation, beside B)")
    options = parser.parse_args(arguments)
    for name in ("num_timesteps", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(options, name)}: allowed: at least 1")
    return options


def compare(options: argparse.Namespace, device: torch.device) -> tuple[str, dict[str, Any]]:
    """Load both models and the images, measure, and return a table and what JSON can hold."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    a, b = load_model(options.a), load_model(options.b)
    check_comparable(a, b, (options.a, options.b))
    data = compared_data(options, a)
    started = time.monotonic()
    model = DenoisingErrors([pipe.to(device) for pipe in (a, b)], data.dataset, options.num_timesteps)
    images = spread(model.measure, range(data.num_images), options.batch_size, "comparing")
    num_train_timesteps = len(model.schedules[0])
    ranges = range_of_timesteps(torch.tensor([image.timesteps for image in images]), num_train_timesteps)
    errors = np.array([image.errors for image in images]).swapaxes(0, 1)
    found = compare_errors(errors[0], errors[1], ranges.numpy(), timestep_ranges(num_train_timesteps))
    head = [f"A: {options.a}", f"B: {options.b}", data.told(options.num_timesteps)]
    if a.takes_prompts != b.takes_prompts:
        head.append(f"only {'A' if a.takes_prompts else 'B'} takes captions: what they tell it is part of B - A")
    names = (data.dataset.source.name(number) for number in range(len(images)))
    results = {
        "a": options.a,
        "b": options.b,
        "protocol": {
            **data.protocol,
            "num_timesteps": options.num_timesteps,
            "num_train_timesteps": num_train_timesteps,
            "prediction_types": [schedule.config["prediction_type"] for schedule in model.schedules],
            "takes_captions": [a.takes_prompts, b.takes_prompts],
            "latents": "none, pixels" if a.vae is None else "modes of the posterior",
            "error": "squared error of epsilon, mean over values and timesteps",
            "dtype": "float32",
            "batch_size": options.batch_size,
        },
        **found.results(),
        "images": [{"name": name, "a": of[0], "b": of[1]} for name, of in zip(names, found.of_images, strict=True)],
        "seconds": round(time.monotonic() - started, 1),
    }
    return "\n".join([*head, "", found.table, "", found.verdict]), results


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
