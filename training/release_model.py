"""Make of a finished run a model that is shipped: a small stock diffusers repository, with its card and pictures.

    python training/release_model.py --run outputs/shapes --output pretrained/shapes-64
    accelerate launch training/evaluate_model.py --model pretrained/shapes-64 --suite shapes
    python training/release_model.py --run outputs/shapes --output pretrained/shapes-64 \
        --evaluation outputs/evaluation/shapes-64/shapes.json

The first command rounds the U-Net and the autoencoder to half precision, which halves the files; the text encoder
stays float32, for stock diffusers needs it so. The second measures what is on disk now, rounded. The third writes the
same model once more, with the score in its card, and refuses a score of other weights, sampler or recommended call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sd_pipeline import SDPipeline
from sd_pipeline.argument_parser import ArgumentParser
from sd_pipeline.publishing.repository import export_pipeline, refuse_foreign_folder
from sd_pipeline.samplers import SCHEDULERS, use_scheduler
from training.config import DataConfig
from training.config_io import read_yaml
from training.data.captioned_images import CaptionedImages
from training.data.catalogue import load_captioned_images
from training.data.errors import DataError
from training.engine.run_folder import RunFolder
from training.release.card_sections import memorisation_section
from training.release.measured_score import MeasuredScore
from training.release.release_card import finished_run, release_card
from training.release.same_model import check_measured
from training.release.samples import generate_samples, page_of_samples, png
from training.release.training_curve import draw_training_curve

CARD_TEMPLATE = Path(__file__).parents[1] / "model_cards" / "shapes-64.md"


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    try:
        options = parse_options(arguments)
        release(options)
    except (OSError, ValueError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    print(options.output)
    return 0


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description="Make of a finished run a model that is shipped.")
    add = parser.add_argument
    add("--run", type=Path, required=True, help="output_dir of the run")
    add("--output", type=Path, required=True, help="folder of the released model; an older model in it is replaced")
    add("--evaluation", type=Path, help="shapes.json of the released model (default: a card without a score)")
    add("--card", type=Path, default=CARD_TEMPLATE, help="template of the card (default: model_cards/shapes-64.md)")
    add("--hardware", help="what the run was trained on, for the card")
    add("--prompt", action="append", help="of a sample; may be repeated (default: the run's validation_prompts)")
    add("--scheduler", choices=list(SCHEDULERS), help="recommended sampler (default: that of the run)")
    add("--num-inference-steps", type=int, help="recommended number of steps (default: that of the run)")
    add("--guidance-scale", type=float, help="recommended guidance (default: that of the run)")
    add("--eta", type=float, help="recommended noise that DDIM adds, 0 to 1 (default: that of the run)")
    add("--max-megabytes", type=float, default=32, help="how large all files together may be (default: 32)")
    return parser.parse_args(arguments)


def release(options: argparse.Namespace) -> None:
    """Write the released model, or raise before anything is replaced."""
    refuse_foreign_folder(options.output)
    run = RunFolder(options.run)
    if run.record("diffusion") is None:
        allowed = "the output_dir of a finished run whose last stage is diffusion"
        raise ValueError(f"--run {options.run}: holds no finished model; allowed: {allowed}")
    config = read_yaml(run.config_file)
    prompts = options.prompt or config.get("evaluation", {}).get("validation_prompts")
    if not prompts:
        raise ValueError(f"--prompt is missing: {run.config_file} has no evaluation.validation_prompts either")
    measured = None if options.evaluation is None else MeasuredScore(options.evaluation)
    pipe = rounded_pipeline(run.pipeline, options)
    if measured is not None:
        check_measured(pipe, options.output, measured)
    dataset, held_out = training_images(config, run.config_file)
    # What the card tells of the sampler is what is released.
    config["evaluation"] = {
        **config.get("evaluation", {}),
        "scheduler": type(pipe.scheduler).__name__,
        **pipe.config["recommended_call"],
    }
    finished = finished_run(run, pipe, config, len(dataset), len(held_out), options.hardware)
    pictures = generate_samples(pipe, len(prompts), {"prompt": prompts})
    with TemporaryDirectory() as folder:
        (Path(folder) / "training_curve.png").write_bytes(draw_training_curve(run.metrics_file))
        (Path(folder) / "samples.png").write_bytes(png(page_of_samples(pictures, prompts)))
        memorisation = memorisation_section(Path(folder), pictures, dataset, held_out)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    card = release_card(options.card, finished, pipe, options.output, prompts, memorisation, measured)
    components = {**pipe.components, "unet": pipe.unet.half()}
    if pipe.vae is not None:
        components["vae"] = pipe.vae.half()
    export_pipeline(
        options.output,
        **components,
        recommended_call=pipe.config["recommended_call"],
        card=card,
        files=files,
        max_megabytes=options.max_megabytes,
    )


def training_images(config: Mapping[str, Any], file: Path) -> tuple[CaptionedImages, CaptionedImages]:
    """Load what the run was trained on, and what it was not, as squares.

    Raises:
        ValueError: If they are not there any more. (The card tells how near the samples are to them.)
    """
    try:
        arguments = {**DataConfig(**config["data"]).captioned(), "seed": config["seed"]}
        train, held_out = (load_captioned_images(split, **arguments) for split in ("train", "validation"))
    except (DataError, TypeError) as error:
        raise ValueError(f"{file}: its training images cannot be read: {error}") from error
    return train.squares(), held_out.squares()


def rounded_pipeline(folder: Path, options: argparse.Namespace) -> SDPipeline:
    """Load a run's pipeline with its weights as they will be on disk, and with the recommended call of the options."""
    pipe = SDPipeline.from_pretrained(folder)
    asked = {name: getattr(options, name) for name in ("num_inference_steps", "guidance_scale", "eta")}
    recommended = {name: value for name, value in asked.items() if value is not None}
    for model in (pipe.unet, pipe.vae):
        if model is not None:
            model.half().float()
    pipe = SDPipeline(**pipe.components, recommended_call={**pipe.config["recommended_call"], **recommended})
    if options.scheduler is not None:
        use_scheduler(pipe, options.scheduler)
    return pipe


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
