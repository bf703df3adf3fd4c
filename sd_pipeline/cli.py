"""The command line, `sd-pipeline`: make, change, repair and extend pictures without writing Python.

Heavy imports wait until the arguments have been read, so that help and wrong options answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sd_pipeline.argument_parser import ArgumentParser
from sd_pipeline.command_models import load_silently, usable_device
from sd_pipeline.demo.commands import add_demo_commands
from sd_pipeline.pretrained_models import DEFAULT_MODEL
from sd_pipeline.push_command import add_push_command
from sd_pipeline.samplers import SCHEDULERS, use_scheduler
from sd_pipeline.segment_command import add_segment_command

if TYPE_CHECKING:
    from PIL.Image import Image

BAD_INPUT = 2
"""Exit code after a line about what is wrong with the input."""

COMMANDS = {
    "generate": ("SDPipeline", "pictures of a prompt"),
    "img2img": ("SDImg2ImgPipeline", "change a picture towards a prompt"),
    "inpaint": ("SDInpaintPipeline", "repaint the part of a picture that a mask shows in white"),
    "outpaint": ("SDOutpaintPipeline", "extend a picture beyond its borders"),
}
"""Each command, its pipeline and what it is for."""

PICTURES = ("image", "mask_image")
"""Which of the arguments are pictures."""

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments (sequence of `str`, *optional*): Those after the name of the program; by default of this process.

    Returns:
        `int`: 0, or `BAD_INPUT` after one line on the standard error.
    """
    # What the libraries remark while they load is not for the user of a command.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Threads that spin while they wait make a small model many times slower where something else uses the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        print(f"sd-pipeline: {reason[0]}", file=sys.stderr)
        return BAD_INPUT
    return 0


def generate(options: argparse.Namespace) -> None:
    """Write pictures: of a prompt, or made from a picture, as the command says.

    Args:
        options (`argparse.Namespace`): What the command reads; `pipeline` names the class, `inputs` are the arguments
            of its call that other commands have not.

    Raises:
        ValueError: If an argument is impossible.
        OSError: If a file cannot be read or written.
    """
    num_images = options.num_images_per_prompt
    if num_images < 1:
        raise ValueError(f"--num-images-per-prompt is {num_images}; it must be at least 1")
    paths = _output_paths(options.output, 1 if options.grid else num_images, options.overwrite)
    inputs = {name: _read(name, getattr(options, name)) for name in options.inputs}
    seed = int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed
    pipe = _load_pipeline(options)

    import torch

    start = time.perf_counter()
    result: Any = pipe(
        options.prompt,
        negative_prompt=options.negative_prompt,
        num_inference_steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale,
        num_images_per_prompt=num_images,
        generator=[torch.Generator().manual_seed(seed + index) for index in range(num_images)],
        **inputs,
    )
    seconds = time.perf_counter() - start
    images = [_side_by_side(result.images)] if options.grid else result.images
    for path, image in zip(paths, images, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        print(path)
    print(f"seed {seed}, {seconds:.1f} s")


def _read(name: str, value: Any) -> Any:
    """Read the pictures among the arguments."""
    if name not in PICTURES:
        return value
    from PIL import Image

    # Not by its path, which turned TIFFs are read wrongly by; see `image_pages`.
    with value.open("rb") as file, Image.open(file) as picture:
        picture.load()
        return picture


def _output_paths(output: Path, num_files: int, overwrite: bool) -> list[Path]:
    if output.suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(f"--output is {str(output)!r}; it must end with one of {', '.join(PICTURE_SUFFIXES)}")
    paths = [output] if num_files == 1 else [output.with_stem(f"{output.stem}-{i}") for i in range(num_files)]
    for path in paths:
        if path.exists() and not overwrite:
            raise ValueError(f"{path} exists; --overwrite replaces it")
    return paths


def _load_pipeline(options: argparse.Namespace) -> Any:
    device = usable_device(options.device)
    pipe = load_silently(options.pipeline, options.model)
    if options.scheduler is not None:
        use_scheduler(pipe, options.scheduler)
    if options.lora is not None:
        try:
            pipe.load_lora_weights(options.lora)
        except (OSError, ValueError) as error:
            raise ValueError(f"--lora {options.lora}: {str(error).splitlines()[0]}") from error
    return pipe.to(device)


def _side_by_side(images: list[Image]) -> Image:
    from diffusers.utils import make_image_grid

    num_columns = int(len(images) ** 0.5 + 0.999)
    while len(images) % num_columns:
        num_columns += 1
    return make_image_grid(images, rows=len(images) // num_columns, cols=num_columns)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="sd-pipeline", description="Make pictures with a model of your own.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (pipeline, does) in COMMANDS.items():
        command = commands.add_parser(name, help=does)
        command.description = f"{does.capitalize()}. Picture i of seed s is picture 0 of seed s + i."
        command.set_defaults(run=generate, pipeline=pipeline, inputs=_add_inputs(command, name))
        _add_common(command)
    add_segment_command(commands)
    add_demo_commands(commands)
    add_push_command(commands)
    return parser


def _add_inputs(parser: argparse.ArgumentParser, command: str) -> tuple[str, ...]:
    """Add the options that only some commands have, and return the names of the arguments that they become."""
    add = parser.add_argument
    if command == "generate":
        add("--height", type=int, help="in pixels (default: as in training)")
        add("--width", type=int, help="in pixels (default: as in training)")
        return "height", "width"
    add("--image", required=True, type=Path, help="picture to start from, of any size")
    if command == "img2img":
        add("--strength", type=float, default=0.8, help="how much to change, 0 to 1 (default: %(default)s)")
        return "image", "strength"
    add("--strength", type=float, default=1.0, help="1 starts from noise, less from what is there (default: 1)")
    if command == "inpaint":
        add(
            "--mask-image",
            required=True,
            type=Path,
            help="picture of the same size: white is repainted, black is kept",
        )
        return "image", "mask_image", "strength"
    sides = ("LEFT", "TOP", "RIGHT", "BOTTOM")
    add("--padding", required=True, type=int, nargs=4, metavar=sides, help="pixels to add on each side")
    return "image", "padding", "strength"


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        default=DEFAULT_MODEL,
        metavar="FOLDER_OR_REPO",
        help="folder of a model, or its name on the Hub (default: %(default)s, which comes with this package)",
    )
    add("--lora", metavar="FOLDER_OR_REPO", help="adapters for this model")
    add(
        "--output", required=True, type=Path, help="picture to write; of several, out.png becomes out-0.png, out-1.png"
    )
    add("--prompt", help="what the picture shall show; left out for models without prompts")
    add("--negative-prompt", help="what to stay away from")
    add("--num-inference-steps", type=int, help="steps from noise to picture (default: what the model recommends)")
    add("--guidance-scale", type=float, help="how closely to follow the prompt (default: what the model recommends)")
    add("--num-images-per-prompt", type=int, default=1, help="how many pictures (default: 1)")
    add("--seed", type=int, help="for the same picture again (default: another one each time, which is printed)")
    add("--scheduler", choices=list(SCHEDULERS), help="sampler (default: the model's own)")
    add("--device", help="such as cpu or cuda (default: a GPU if there is one)")
    add("--grid", action="store_true", help="write several pictures into one file")
    add("--overwrite", action="store_true", help="replace files that exist")


if __name__ == "__main__":
    sys.exit(main())
