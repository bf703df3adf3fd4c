"""Measure a finished pipeline with its own scheduler and recommended call, unless others are asked for.

    python training/evaluate_model.py --model outputs/digits/pipeline --suite digits

Prints a table and writes it as JSON, with a picture, into the folder `evaluation` beside the model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from sd_pipeline import SDPipeline
from training.config import STAGES
from training.data.captioned_images import CaptionedImages
from training.data.digits import CANVAS_SIZE, DigitsSource, caption_of_digit
from training.engine.checkpointing import write_json
from training.evaluation.digit_recognition import beside_real_digits, held_out_accuracy, recognised
from training.evaluation.generation import generate_images
from training.evaluation.reconstruction import psnr_of_autoencoder

NUM_DIGITS = 10


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    options = parse_options(arguments)
    try:
        if options.num_prompts < NUM_DIGITS or options.num_prompts % NUM_DIGITS:
            raise ValueError(f"--num-prompts {options.num_prompts}: must be a multiple of {NUM_DIGITS}")
        pipe = SDPipeline.from_pretrained(options.model)
        if not pipe.takes_prompts:
            raise ValueError(f"--model {options.model}: is unconditional; the suite digits asks for digits by name")
    except (OSError, ValueError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    results = evaluate_digits(pipe, options)
    output = options.output or Path(options.model).parent / "evaluation"
    output.mkdir(parents=True, exist_ok=True)
    results.pop("picture").save(output / "digits.png")
    results["seconds"] |= seconds_of_stages(Path(options.model).parent)
    write_json(results, output / "digits.json")
    print_table(results)
    print(f"\nwritten: {output / 'digits.json'}, {output / 'digits.png'}")
    return 0


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure a finished pipeline.", allow_abbrev=False)
    parser.add_argument("--model", required=True, help="folder or Hub name of a pipeline")
    parser.add_argument("--suite", required=True, choices=["digits"], help="what is measured")
    parser.add_argument("--num-prompts", type=int, default=200, help="images to generate")
    parser.add_argument("--num-inference-steps", type=int, help="default: the model's recommended number")
    parser.add_argument("--guidance-scale", type=float, help="default: the model's recommended guidance")
    parser.add_argument("--seed", type=int, default=0, help="image i is drawn from seed + i")
    parser.add_argument("--output", type=Path, help="folder of the results (default: evaluation, beside the model)")
    return parser.parse_args(arguments)


def evaluate_digits(pipe: SDPipeline, options: argparse.Namespace) -> dict[str, Any]:
    """Generate every digit equally often, and measure recognition and reconstruction."""
    labels = [number * NUM_DIGITS // options.num_prompts for number in range(options.num_prompts)]
    asked = {"num_inference_steps": options.num_inference_steps, "guidance_scale": options.guidance_scale}
    call = {name: value for name, value in asked.items() if value is not None}
    started = time.monotonic()
    images = generate_images(pipe, [caption_of_digit(label) for label in labels], options.seed, **call)
    seconds = time.monotonic() - started
    passed = recognised(images, labels)
    interval = binomtest(int(passed.sum()), len(labels)).proportion_ci(method="wilson")
    held_out = CaptionedImages(DigitsSource("validation"), CANVAS_SIZE)
    used = {**pipe.config["recommended_call"], **call}
    return {
        "suite": "digits",
        "protocol": {
            "num_prompts": len(labels),
            "scheduler": pipe.scheduler.__class__.__name__,
            "num_inference_steps": used.get("num_inference_steps"),
            "guidance_scale": used.get("guidance_scale"),
            "seed": options.seed,
        },
        "recognised": int(passed.sum()),
        "recognised_fraction": float(passed.mean()),
        "recognised_interval_95": [float(interval.low), float(interval.high)],
        "recognised_by_digit": [int(passed[[label == d for label in labels]].sum()) for d in range(NUM_DIGITS)],
        "classifier_accuracy_on_real_held_out": held_out_accuracy(),
        "autoencoder_psnr_held_out": None if pipe.vae is None else psnr_of_autoencoder(pipe.vae, held_out),
        "seconds": {"generation": round(seconds, 1)},
        "picture": beside_real_digits(images, labels),
    }


def seconds_of_stages(run: Path) -> dict[str, float]:
    """Read how long the stages of a run took, where the model lies in one."""
    files = {stage: run / stage / "finished.json" for stage in STAGES}
    return {stage: json.loads(file.read_text())["seconds"] for stage, file in files.items() if file.is_file()}


def print_table(results: dict[str, Any]) -> None:
    """Print the results for a person."""
    protocol = results["protocol"]
    low, high = results["recognised_interval_95"]
    psnr = results["autoencoder_psnr_held_out"]
    rows = [
        ("digits recognised as asked", f"{results['recognised']} of {protocol['num_prompts']}"),
        ("  95% interval", f"{low:.1%} to {high:.1%}"),
        ("  the classifier on real held-out digits", f"{results['classifier_accuracy_on_real_held_out']:.1%}"),
        ("autoencoder PSNR, held-out images", "no autoencoder" if psnr is None else f"{psnr:.1f} dB"),
        ("sampler", f"{protocol['scheduler']}, {protocol['num_inference_steps']} steps"),
        ("guidance scale", f"{protocol['guidance_scale']}"),
        *((f"seconds, {name}", f"{seconds:.0f}") for name, seconds in results["seconds"].items()),
    ]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
