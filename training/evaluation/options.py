"""What the command that measures a model can be asked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sd_pipeline.argument_parser import ArgumentParser
from sd_pipeline.samplers import SCHEDULERS
from sd_pipeline.schedulers.scheduler_arguments import FIXED_VARIANCE_TYPES
from training.data.label_rules import LABEL_TYPES
from training.data.labelled_catalogue import LABELLED_BUILT_IN
from training.evaluation.suite import Call

NUM_PROMPTS = {
    "shapes": 300,
    "shapes-inpaint": 200,
    "shapes-outpaint": 200,
    "digits": 200,
    "captions": 1000,
    "bits": 100,
    "segmentation": 50,
}
"""Each suite, and how many images it generates by default, `shapes` of each split; or, for `bits`, how many real
images it measures, and for `segmentation`, how many synthetic micrographs; of other data it measures all."""

_ON_CAPTIONS = ("captions", "bits")
_ON_DATASETS = (*_ON_CAPTIONS, "segmentation")
_OF_REAL_IMAGES = ("bits", "segmentation")


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments (sequence of `str`): Those after the name of the program.

    Returns:
        `argparse.Namespace`: the options, by their names.

    Raises:
        ValueError: If an option is unknown, missing, impossible or not for this suite.
    """
    parser = ArgumentParser(description="Measure a finished pipeline.")
    defaults = ", ".join(f"{number} for {suite}" for suite, number in NUM_PROMPTS.items())
    add = parser.add_argument
    add("--model", required=True, metavar="FOLDER_OR_REPO", help="folder of a pipeline, or its name on the Hub")
    add("--suite", required=True, choices=list(NUM_PROMPTS), help="what is measured")
    add("--num-prompts", type=int, help=f"images; of shapes, of each split (default: {defaults}, of cells)")
    of_sampling = [
        add("--num-inference-steps", type=int, help="default: the model's recommended number"),
        add("--guidance-scale", type=float, help="default: the model's recommended guidance"),
        add("--eta", type=float, help="noise that DDIM adds, 0 to 1 (default: the model's recommended share)"),
        add("--scheduler", choices=list(SCHEDULERS), help="sampler (default: the model's own)"),
    ]
    add("--seed", type=int, default=Call.seed, help="of the noise, the captions of shapes, the cells (default: 0)")
    add("--batch-size", type=int, help="images made at a time (default: 25), or tiles segmented (default: 1)")
    add("--card", action="store_true", help="put the results into the card (README.md) of the model, a folder")
    add("--output", type=Path, help="folder of the results (default: evaluation, beside the model)")
    add = parser.add_argument_group("for the suites captions, bits and segmentation").add_argument
    of_datasets = [
        add("--dataset", metavar="NAME_OR_FOLDER", help="whose images, and captions or labels"),
        add("--dataset-split", choices=["train", "validation"], help="default: validation"),
        add("--image-column", help="default: image"),
    ]
    add = parser.add_argument_group("for the suites captions and bits").add_argument
    of_captioned_datasets = [
        add("--caption-column", help="default: text"),
        add("--resolution", type=int, help="of the real images (default: as the generated ones)"),
    ]
    add = parser.add_argument_group("for the suite captions").add_argument
    of_captions = [add("--clip", metavar="FOLDER_OR_REPO", help="CLIP that judges (default: that of the run)")]
    add = parser.add_argument_group("for the suite bits").add_argument
    of_bits = [
        add("--num-timesteps", type=int, help="timesteps to draw for each image (default: all are computed)"),
        add("--variance-type", choices=FIXED_VARIANCE_TYPES, help="of the reverse steps (default: the model's)"),
    ]
    add = parser.add_argument_group("for the suite segmentation").add_argument
    of_labels = [
        add("--label-type", choices=LABEL_TYPES, help="what the labels number (default: instances)"),
        add("--label-column", help="default: label"),
    ]
    of_tiles = [add("--tile-size", type=int, help="side of the tiles, in pixels (default: as the pipeline chooses)")]
    options = parser.parse_args(arguments)
    generating = tuple(suite for suite in NUM_PROMPTS if suite not in _OF_REAL_IMAGES)
    allowed = [
        (of_sampling, generating),
        (of_datasets, _ON_DATASETS),
        (of_captioned_datasets, _ON_CAPTIONS),
        (of_captions, ("captions",)),
        (of_bits, ("bits",)),
        ([*of_labels, *of_tiles], ("segmentation",)),
    ]
    for group, suites in allowed:
        if options.suite not in suites:
            _refuse(options, group, f"only with --suite {' or '.join(suites)}")
    if options.suite in _ON_DATASETS and options.dataset is None:
        raise ValueError(f"--dataset is missing: --suite {options.suite} measures on a data set")
    if options.suite == "segmentation" and options.dataset == LABELLED_BUILT_IN:
        _refuse(options, [*of_datasets[1:], *of_labels], f"only with other data than {LABELLED_BUILT_IN}")
    if options.batch_size is None:
        options.batch_size = 1 if options.suite == "segmentation" else Call.batch_size
    return options


def _refuse(options: argparse.Namespace, group: Sequence[argparse.Action], allowed: str) -> None:
    """Refuse options that were given and would do nothing."""
    for option in group:
        if getattr(options, option.dest) is not None:
            raise ValueError(f"{option.option_strings[0]}: allowed {allowed}")
