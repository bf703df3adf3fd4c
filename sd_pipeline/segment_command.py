"""`sd-pipeline segment`: classes and instances of the pixels of images, as files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sd_pipeline.argument_parser import ArgumentParser
from sd_pipeline.command_models import load_silently, usable_device

if TYPE_CHECKING:
    from sd_pipeline.segmentation_files import Page


def add_segment_command(commands: argparse._SubParsersAction[ArgumentParser]) -> None:
    """Add the command to those of `sd-pipeline`.

    Args:
        commands (`argparse._SubParsersAction`): Where to.
    """
    command = commands.add_parser("segment", help="find classes and instances in images of any size")
    command.description = (
        "Segment images of any size. For NAME.tif the folder gets NAME-labels.png, the class of each pixel (16 bits "
        "from 257 classes on); NAME-instances.png, in 16 bits the number of its region, 0 for the background "
        "(NAME-instances.tif, in 32 bits, from 65,536 regions on); and NAME-overlay.png, to look at. Each page of a "
        "TIFF is an image: NAME-0, NAME-1, ..."
    )
    add = command.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="file of one image, or a TIFF of several pages")
    add("--model", required=True, metavar="FOLDER_OR_REPO", help="folder of a model, or its name on the Hub")
    add("--output", required=True, type=Path, metavar="FOLDER", help="where to write; made if it is not there")
    add("--probabilities", action="store_true", help="write NAME-probabilities.npy: float32, classes, height, width")
    add("--no-overlay", action="store_false", dest="overlay", help="do not write NAME-overlay.png")
    add("--tile-size", type=int, help="side of the tiles that the network is given (default: as the image needs)")
    add("--batch-size", type=int, default=1, help="how many tiles at once (default: %(default)s)")
    add("--device", help="such as cpu or cuda (default: a GPU if there is one)")
    add("--overwrite", action="store_true", help="replace files that exist")
    command.set_defaults(run=segment)


def segment(options: argparse.Namespace) -> None:
    """Segment images one after the other, and say what was written.

    All of them are read once before the first is segmented, so that none is found to be damaged after hours.

    Args:
        options (`argparse.Namespace`): `images`, `model`, `output`, `probabilities`, `overlay`, `tile_size`,
            `batch_size`, `device` and `overwrite`.

    Raises:
        ValueError: If an option is impossible, an image cannot be used, a file would be overwritten, or the model is
            damaged or of another kind.
        OSError: If there is no such model, or a file cannot be written.
    """
    if options.batch_size < 1:
        raise ValueError(f"--batch-size is {options.batch_size}; it must be at least 1")

    from sd_pipeline.segmentation_files import ResultFiles, check_result_files, list_pages

    pages = list_pages(options.images)
    files = [ResultFiles(options.output, page.name, options.overlay, options.probabilities) for page in pages]
    check_result_files(files, options.images, options.overwrite)
    pipe = _load_pipeline(options)
    for page in pages:
        _check(page, pipe)
    for page, results in zip(pages, files, strict=True):
        image = page.read()
        pipe.set_progress_bar_config(disable=None, desc=page.name, unit="tile", leave=False)
        output = pipe(image, tile_size=options.tile_size, batch_size=options.batch_size)
        for path in results.write(image, output):
            print(path)
        print(f"{page.name}: {output.instances[0].max()} instances", flush=True)
        del image, output  # Before the next ones take their memory.


def _load_pipeline(options: argparse.Namespace) -> Any:
    device = usable_device(options.device)
    pipe = load_silently("SegmentationPipeline", options.model)
    if options.tile_size is not None:
        try:
            pipe.tiling(1, 1, options.tile_size)
        except ValueError as error:
            raise ValueError(f"--tile-size {options.tile_size}: {error}") from error
    return pipe.to(device)


def _check(page: Page, pipe: Any) -> None:
    """Check that an image can be read, and the network can be given it."""
    from sd_pipeline.pipelines.segmentation_inputs import read_images

    image = page.read()
    try:
        read_images(image, pipe.unet.config["in_channels"])
    except ValueError as error:
        raise ValueError(f"{page.path}: {error}") from error
