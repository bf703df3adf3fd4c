"""Images a second of each stage: this package's training, and that of diffusers' and transformers' parts.

    python benchmarks/training_speed.py [--repetitions 7] [--without_choices]

Both train networks of the same kind and size, from the same weights, on the same images, in one process, in turn: some
updates of one, some updates of the other. Images are in memory, so that neither reads files. The diffusion stage is a
U-Net of 10.9 million weights on latents of 16 x 16 x 4 (images of 64 pixels), in batches of 32; text encoder and
autoencoder are those of configs/shapes.yaml, in its batches, the text encoder without thumbnails.

What differs beside the code: this package has the latents' distributions from its cache; each draws noise and
timesteps in its own way; weights that are no matrices do not decay in this package, as they do by default elsewhere.
To the contrastive loss of this package, equal captions are one.

A CPU does its work before Python goes on, so that a loop that reads the loss in each step loses nothing there: the
gain of not reading it shows on a GPU alone.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

# Everything is local; without this, each load of a model asks a server.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import torch
import transformers

from benchmarks.kernel_counts import work_of
from benchmarks.limits import matmul_rows
from benchmarks.machine import default_device
from benchmarks.measurement import Conditions, Row, Spread, interleaved, rate_row, synchronised
from benchmarks.stepped_training import FixedPrecision, KeptImages, SteppedTrainer, kept_images, shapes_config
from benchmarks.training_choices import STOCK_LAYERS, TAKEN_BACK, Run, WithStockLayers
from benchmarks.training_pairs import Pair, autoencoder_pair, stock_diffusion, text_encoder_pair
from training.config import TrainConfig

_PRECISIONS = {"float32": "no", "bfloat16": "bf16"}
_UPDATES_A_CALL = {"cpu": 2, "cuda": 20}
_STAGES: dict[str, Callable[[TrainConfig, KeptImages, str, torch.device], Pair]] = {
    "text encoder": text_encoder_pair,
    "autoencoder": autoencoder_pair,
}


class Trained(Protocol):
    """A training that goes on."""

    def advance(self, num_updates: int) -> None:
        """Make some updates.

        Args:
            num_updates (`int`): How many.
        """


def rows(conditions: Conditions, with_choices: bool = True) -> list[Row]:
    """Measure the section `training`.

    Args:
        conditions (`Conditions`): How.
        with_choices (`bool`, defaults to `True`): Whether to measure what each choice of the diffusion stage gains.
    """
    limits = {name: row.spread.median for row in matmul_rows(conditions) for name in _PRECISIONS if name in row.name}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        config = shapes_config(Path(folder), conditions)
        images = kept_images(config)
        for name, build in _STAGES.items():
            found += stage_rows(conditions, name, partial(build, config, images), limits)
        run = Run(config, images, conditions.device)
        found += diffusion_rows(conditions, run, limits, with_choices and not conditions.is_tiny)
    return found


def stage_rows(
    conditions: Conditions, name: str, build: Callable[[str, torch.device], Pair], limits: dict[str, float]
) -> list[Row]:
    """Measure the text encoder or the autoencoder, in both precisions.

    Args:
        conditions (`Conditions`): How.
        name (`str`): The stage.
        build (`Callable`): Makes both trainings in a precision on a device.
        limits (`dict[str, float]`): Matrix products in GFLOP/s, by precision.
    """
    trained: dict[str, Trained] = {}
    for precision, word in _PRECISIONS.items():
        ours, trained[f"stock {precision}"] = build(word, conditions.device)
        trained[f"ours {precision}"] = ours
    seconds = _seconds(conditions, trained)
    images = _updates(conditions) * ours.settings.train_batch_size
    gflop = gflop_of(ours)
    found = []
    for precision in _PRECISIONS:
        times = seconds[f"ours {precision}"], seconds[f"stock {precision}"]
        row = rate_row("training", f"{name}, {precision}", "images/s", images, *times)
        found.append(dataclasses.replace(row, note=_share(row, gflop, limits[precision])))
    return found


def diffusion_rows(conditions: Conditions, run: Run, limits: dict[str, float], with_choices: bool) -> list[Row]:
    """Measure the diffusion stage, and what each choice gains.

    Args:
        conditions (`Conditions`): How.
        run (`Run`): Ours, with all choices.
        limits (`dict[str, float]`): Matrix products in GFLOP/s, by precision.
        with_choices (`bool`): Whether to measure the latter.
    """
    ours = run.trainer()
    trained: dict[str, Trained] = {"ours": ours}
    for precision, word in _PRECISIONS.items():
        accelerator = FixedPrecision(word, conditions.device)
        trained[f"stock {precision}"] = stock_diffusion(ours, run.config, run.images, accelerator)
    choices = TAKEN_BACK if with_choices else {}
    trained |= {choice: take_back(run) for choice, take_back in choices.items()}
    layers = STOCK_LAYERS if with_choices else {}
    trained |= {choice: WithStockLayers(ours, *kinds) for choice, kinds in layers.items()}
    seconds = _seconds(conditions, trained)
    images = _updates(conditions) * ours.settings.train_batch_size
    gflop = gflop_of(ours)
    make = partial(rate_row, "training", unit="images/s", amount=images, ours=seconds["ours"])
    found = []
    for precision in _PRECISIONS:
        row = make(name=f"diffusion, bfloat16; diffusers {precision}", other=seconds[f"stock {precision}"])
        found.append(dataclasses.replace(row, note=_share(row, gflop, limits["bfloat16"])))
    for choice in (*choices, *layers):
        row = make(name=f"diffusion, gain of {choice}", other=seconds[choice])
        found.append(dataclasses.replace(row, note="beside this package without that"))
    return found


def gflop_of(trainer: SteppedTrainer) -> float:
    """Count what the networks that learn in a stage compute for an image: forward and backward pass, in GFLOP.

    What is frozen is left out, so that both trainings have the same useful work.

    Args:
        trainer (`SteppedTrainer`): Of the stage.
    """
    task, size = trainer.task, trainer.settings.train_batch_size
    batch = task.collate([task.dataset[number, number] for number in range(size)])
    device = trainer.accelerator.device
    inputs = task.prepare_batch({name: value.to(device) for name, value in batch.items()}, 0)
    on_meta = {name: value.to("meta") for name, value in inputs.items() if value.ndim}
    model = copy.deepcopy(task.model).to("meta").train()
    return work_of(lambda: model(**on_meta)["loss"].mean().backward()).flop / size / 1e9


def _updates(conditions: Conditions) -> int:
    return 1 if conditions.is_tiny else _UPDATES_A_CALL[conditions.device.type]


def _seconds(conditions: Conditions, trained: dict[str, Trained]) -> dict[str, list[float]]:
    updates = _updates(conditions)
    functions = {name: partial(training.advance, updates) for name, training in trained.items()}
    return interleaved(synchronised(functions, conditions.device), conditions.repetitions)


def _share(row: Row, gflop: float, limit: float) -> str:
    """Say how near to the limit a rate is, and how near the baseline."""
    shares = [spread.median * gflop / limit for spread in (row.spread, row.baseline) if spread is not None]
    return f"{gflop:.2f} GFLOP an image; {' and '.join(f'{share:.0%}' for share in shares)} of the matrix product"


def main(arguments: Sequence[str]) -> None:
    """Run the command line, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7, help="of each measurement (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="only see that everything runs")
    parser.add_argument("--without_choices", action="store_true", help="leave out what single choices gain")
    options = parser.parse_args(arguments)
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    print(f"{'':<55}{'images/s':>22}{'compared with':>22}{'times as fast':>20}")
    for row in rows(Conditions(options.repetitions, default_device(), options.tiny), not options.without_choices):
        columns = [_column(spread) for spread in (row.spread, row.baseline, row.ratio)]
        print(f"{row.name:<55}{columns[0]:>22}{columns[1]:>22}{columns[2]:>20}  {row.note}")


def _column(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"


if __name__ == "__main__":
    main(sys.argv[1:])
