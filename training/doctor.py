"""Look a run over before it starts: data, memory, disk, time, where it publishes, and one real step of every stage.

    python training/doctor.py --config configs/digits.yaml [--key.sub=value ...] [--price_per_hour=PRICE]

Updates are rehearsed with one process, in a temporary folder. It ends with a table of findings, each with what to do
about it, and with exit code 0, or 2 if the run would fail.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from training.config import STAGES, ConfigError, TrainConfig
from training.config_io import check_resumable, parse_config, read_yaml
from training.data.captioned_images import CaptionedImages
from training.data.errors import DataError
from training.data.image_source import SourceSubset
from training.data.labelled_source import LabelledSubset
from training.data.training_images import TrainingImages
from training.diagnosis.caption_check import check_captions, tokenizer_of
from training.diagnosis.data_check import check_images, training_source
from training.diagnosis.estimates import disk_finding, latent_cache_bytes, memory_finding, time_finding
from training.diagnosis.finding import Finding, Level, findings_table
from training.diagnosis.hub_check import check_permission
from training.diagnosis.rehearsal import RehearsedStage, rehearse
from training.engine.checkpointing import CheckpointError, newest_checkpoint
from training.engine.run_folder import RunFolder
from training.engine.run_lock import RunFolderError
from training.stages import load_captions, load_labels, start_accelerator
from training.tasks.components import build_vae, downsampling_factor
from training.tasks.model_check import check_models
from training.tasks.pretrained import load_pretrained

_REHEARSED_IMAGES = 64


def main(arguments: Sequence[str]) -> int:
    """Run the command line, print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--price_per_hour", type=float, help="of the machine, to tell the cost")
    options, of_run = parser.parse_known_args(arguments)
    disable_progress_bar()
    try:
        config = parse_config(of_run)
        findings = examine(config, options.price_per_hour)
    except (ConfigError, DataError) as error:
        findings = [Finding(Level.ERROR, "configuration", str(error), "change the key that is named")]
    print(findings_table(findings))
    return 2 if any(finding.level is Level.ERROR for finding in findings) else 0


def examine(config: TrainConfig, price_per_hour: float | None = None) -> list[Finding]:
    """Examine a run.

    Args:
        config (`TrainConfig`): The run.
        price_per_hour (`float`, *optional*): Of the machine.

    Raises:
        ConfigError: If its models cannot be built or do not fit together.
        DataError: If its data set cannot be found.
    """
    findings = folder_findings(config) + check_permission(config.hub)
    folder = RunFolder(Path(config.output_dir))
    check_models(config, [stage for stage in STAGES if folder.record(stage) is not None], load_pretrained(config))
    of_data, few, num_images = data_findings(config)
    findings += of_data
    if few is None:
        return findings
    accelerator = start_accelerator(replace(config, report_to="none"))
    stages: list[RehearsedStage] = []
    with tempfile.TemporaryDirectory() as place:
        for stage in (stage for stage in config.stages if config.stage(stage).max_train_steps > 0):
            print(f"rehearsing {stage}", file=sys.stderr, flush=True)
            try:
                stages.append(rehearse(config, stage, Path(place), accelerator, few))
            except (RuntimeError, OSError, ValueError, ArithmeticError) as error:
                told = " ".join(str(error).split())[:300]
                findings.append(Finding(Level.ERROR, stage, f"{type(error).__name__}: {told}", _mend_of(error)))
                break
            findings.append(Finding(Level.FINE, stage, "a real step, a save, a load and an export"))
    if stages:
        findings.append(memory_finding(stages, accelerator.device))
        findings.append(disk_finding(config, stages, cache_bytes(config, num_images)))
        findings.append(time_finding(config, stages, price_per_hour))
    return findings


def folder_findings(config: TrainConfig) -> list[Finding]:
    """Look at the output folder, and at a run in it."""
    folder = RunFolder(Path(config.output_dir))
    try:
        folder.check_usable()
        if folder.config_file.exists():
            check_resumable(read_yaml(folder.config_file), config)
    except (RunFolderError, ConfigError) as error:
        return [Finding(Level.ERROR, "output folder", str(error), "take another output_dir, or the old configuration")]
    findings = [Finding(Level.FINE, "output folder", f"{config.output_dir} can be used")]
    for stage in config.stages:
        with warnings.catch_warnings(record=True) as damaged:
            warnings.simplefilter("always")
            try:
                newest = newest_checkpoint(folder.stage(stage))
            except CheckpointError as error:
                findings.append(Finding(Level.ERROR, "training states", str(error), "move them away"))
                continue
        if newest is not None:
            findings.append(Finding(Level.FINE, "training states", f"{stage} would go on from {newest.name}"))
        findings += [Finding(Level.WARNING, "training states", str(each.message), "remove it") for each in damaged]
    return findings


def data_findings(config: TrainConfig) -> tuple[list[Finding], TrainingImages | None, int]:
    """Look at images and their captions or labels.

    Returns:
        The findings, a few images that can be used (`None` if there are none), and how many the data set has.
    """
    if config.segments:
        annotated, _ = load_labels(config)
        told = Finding(Level.FINE, "images", f"{len(annotated)} annotated images, all of which were read")
        return [told], LabelledSubset(annotated, range(min(len(annotated), _REHEARSED_IMAGES))), len(annotated)
    source = training_source(config.data)
    if source is None:
        dataset = load_captions(config)[0]
        findings = [Finding(Level.FINE, "images", f"{len(dataset)}, made here or streamed; the files were not read")]
        usable, images, captions = list(range(len(dataset))), dataset.source, dataset.captions
    else:
        findings, usable = check_images(source, config.data.resolution, config.data.on_bad_sample)
        images = SourceSubset(source, usable)
        captions = CaptionedImages(images, config.data.resolution).captions
    if not usable:
        return findings, None, 0
    tokenizer = tokenizer_of(config, captions)
    if tokenizer is not None:
        findings += check_captions(captions, tokenizer)
    few = CaptionedImages(
        SourceSubset(images, range(min(len(images), _REHEARSED_IMAGES))),
        config.data.resolution,
        aspect_ratio_bucket_step=config.data.aspect_ratio_bucket_step,
        center_crop=config.data.center_crop,
        random_flip=config.data.random_flip,
        seed=config.seed,
    )
    return findings, few, len(images) if source is None else len(source)


def cache_bytes(config: TrainConfig, num_images: int) -> int:
    """Return the size of the run's latent cache; 0 if it has none."""
    if not config.diffusion.cache_latents or "autoencoder" not in config.stages:
        return 0
    with torch.device("meta"):
        vae = build_vae(config)
    side = config.data.resolution // downsampling_factor(vae)
    return latent_cache_bytes(num_images, (vae.config["latent_channels"], side, side))


def _mend_of(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
        return "lower train_batch_size and raise gradient_accumulation_steps, or set gradient_checkpointing"
    return "change what the message names"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
