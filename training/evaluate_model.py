"""Measure a finished pipeline with its own scheduler and recommended call, unless others are asked for.

    accelerate launch training/evaluate_model.py --model outputs/shapes/pipeline --suite shapes

Prints a table and writes it as JSON, with pictures. Processes of a launcher share the work, and make the same images
however many they are; on a CPU each computes with one thread. Exit code 2 is bad input.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.utils import logging

from sd_pipeline import SDPipeline, SegmentationPipeline
from sd_pipeline.pipelines.segmentation_inputs import read_images
from sd_pipeline.publishing.model_card import without_local_paths
from sd_pipeline.publishing.repository import CARD_FILE
from sd_pipeline.samplers import use_scheduler
from training.config import STAGES
from training.data.catalogue import load_captioned_images
from training.data.cells import CellsSource
from training.data.labelled_catalogue import LABELLED_BUILT_IN, load_labelled_source
from training.data.labelled_source import LabelledSource
from training.engine.checkpointing import write_json, write_text
from training.evaluation.options import NUM_PROMPTS, parse_options
from training.evaluation.results_folder import check_writable, default_output
from training.evaluation.spreading import measured, process_state
from training.evaluation.suite import Call, Report, aligned
from training.evaluation.suite_bits import evaluate_bits
from training.evaluation.suite_captions import evaluate_captions
from training.evaluation.suite_digits import evaluate_digits
from training.evaluation.suite_inpaint import evaluate_inpainting
from training.evaluation.suite_outpaint import evaluate_outpainting
from training.evaluation.suite_segmentation import evaluate_segmentation
from training.evaluation.suite_shapes import evaluate_shapes
from training.release.added_results import check_card, with_results

SUITES = {
    "shapes": evaluate_shapes,
    "shapes-inpaint": evaluate_inpainting,
    "shapes-outpaint": evaluate_outpainting,
    "digits": evaluate_digits,
}


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""

    def measure(device: torch.device) -> tuple[argparse.Namespace, Path, str | None, Report]:
        options = parse_options(arguments)
        output = options.output or default_output(options.model)
        check_writable(output)
        card = read_card(options.model) if options.card else None
        return options, output, card, evaluate(options, device)

    found = measured(measure)
    if found is None:
        return 2
    options, output, card, report = found
    if process_state().is_main_process:
        results = hand_over(report, options.model, output)
        if card is not None:
            write_text(with_results(card, results, report.table, told_command(arguments)), card_file(options.model))
    return 0


def told_command(arguments: Sequence[str]) -> str:
    """Write the command of this evaluation for others, without the paths of this machine."""
    words = [part for argument in arguments for part in argument.split("=", 1)]
    return f"accelerate launch training/evaluate_model.py {shlex.join(without_local_paths(words))}"


def card_file(model: str) -> Path:
    """Tell where the card of a model lies."""
    return Path(model) / CARD_FILE


def read_card(model: str) -> str:
    """Read the card of a model before the work, to find out whether results can be put into it."""
    try:
        return check_card(card_file(model).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--card: allowed for a folder with a {CARD_FILE}; {model!r} is none") from error


def evaluate(options: argparse.Namespace, device: torch.device) -> Report:
    """Load the pipeline and run the suite."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # That of loading; generating has one.
    transformers.utils.logging.disable_progress_bar()
    call = Call(options.num_inference_steps, options.guidance_scale, options.eta, options.seed, options.batch_size)
    if options.suite == "segmentation":
        return measure_segmentation(options, device, call)
    pipe = SDPipeline.from_pretrained(options.model)
    if options.scheduler is not None:
        use_scheduler(pipe, options.scheduler)
    pipe.to(device)
    num_prompts = NUM_PROMPTS[options.suite] if options.num_prompts is None else options.num_prompts
    if options.suite in SUITES:
        return SUITES[options.suite](pipe, num_prompts, call)
    return measure_on_dataset(options, pipe, call)


def measure_on_dataset(options: argparse.Namespace, pipe: SDPipeline, call: Call) -> Report:
    """Run the suite `captions` or `bits`, and note in its protocol which data set it is about."""
    names = {
        "dataset": options.dataset,
        "dataset_split": options.dataset_split or "validation",
        "image_column": options.image_column or "image",
        "caption_column": options.caption_column or "text",
    }
    resolution = options.resolution or pipe.latents_shape(1, None, None)[-1] * pipe.vae_scale_factor
    columns = {name: names[name] for name in ("image_column", "caption_column")}
    dataset = load_captioned_images(names["dataset_split"], dataset=options.dataset, resolution=resolution, **columns)
    num_prompts = options.num_prompts
    if num_prompts is None:
        num_prompts = min(NUM_PROMPTS[options.suite], len(dataset))
    if options.suite == "captions":
        report = evaluate_captions(pipe, dataset, num_prompts, call, options.clip)
    else:
        seen = load_captioned_images("train", dataset=options.dataset, resolution=resolution, **columns)
        report = evaluate_bits(pipe, dataset, seen, num_prompts, call, options.num_timesteps, options.variance_type)
    report.results["protocol"] |= names
    return report


def measure_segmentation(options: argparse.Namespace, device: torch.device, call: Call) -> Report:
    """Run the suite `segmentation` on cells that nobody has seen, or on a labelled data set, and note which."""
    pipe = SegmentationPipeline.from_pretrained(options.model)
    pipe.to(device)
    label_type, num_images = options.label_type or "instances", options.num_prompts
    source: LabelledSource
    if options.dataset == LABELLED_BUILT_IN:
        names = {"dataset": LABELLED_BUILT_IN, "dataset_split": "test"}
        num_images = NUM_PROMPTS[options.suite] if num_images is None else num_images
        if num_images < 1:
            raise ValueError(f"--num-prompts {num_images}: allowed for {LABELLED_BUILT_IN}: at least 1")
        source = CellsSource("test", num_images, call.seed)
    else:
        split = options.dataset_split or "validation"
        columns: dict[str, Any] = {
            "image_column": options.image_column or "image",
            "label_column": options.label_column or "label",
        }
        names = {"dataset": options.dataset, "dataset_split": split, **columns}
        unet = pipe.unet.config
        source = load_labelled_source(
            split,
            dataset=options.dataset,
            label_type=label_type,
            num_classes=unet["num_classes"],
            check_image=partial(read_images, in_channels=unet["in_channels"]),
            **columns,
        )
        num_images = len(source) if num_images is None else num_images
    report = evaluate_segmentation(pipe, source, label_type, num_images, call, options.tile_size)
    report.results["protocol"] |= names
    return report


def hand_over(report: Report, model: str, output: Path) -> dict[str, Any]:
    """Print a report, write it, and return what was written as JSON."""
    results = {"model": model, **report.results}
    results["seconds"] = results["seconds"] | seconds_of_stages(Path(model).parent)
    print(report.table, end="\n\n")
    print(aligned([(f"seconds, {name}", f"{seconds:.0f}") for name, seconds in results["seconds"].items()]))
    output.mkdir(parents=True, exist_ok=True)
    files = [output / f"{results['suite']}.json"]
    write_json(results, files[0])
    for name, picture in report.pictures.items():
        files.append(output / f"{name}.png")
        picture.save(files[-1])
    print("\nwritten:", ", ".join(map(str, files)))
    return results


def seconds_of_stages(run: Path) -> dict[str, float]:
    """Read how long the stages of a run took, where the model lies in one."""
    files = {stage: run / stage / "finished.json" for stage in STAGES}
    return {stage: json.loads(file.read_text())["seconds"] for stage, file in files.items() if file.is_file()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
