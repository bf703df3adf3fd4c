"""What saving takes: the stall of a training, the time until a state is safe on disk, and a published repository."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.compared_models import SHAPES, load_ours, load_stock, recommended_call
from benchmarks.machine import ROOT
from benchmarks.measurement import Conditions, Row, cost_row, interleaved
from benchmarks.training_overhead import DEFAULT_INTERVAL, SAVE_EVERY, build_task, costs_of_saves, train
from sd_pipeline.publishing.repository import export_pipeline
from training.config_io import parse_config
from training.engine.checkpointing import newest_checkpoint, read_checkpoint, save_checkpoint

_CONFIG = ROOT / "configs" / "digits.yaml"
# Fewer say nothing: the updates without a save lie between two of them.
_FEWEST_SAVES = 2


def rows(conditions: Conditions) -> list[Row]:
    """Measure the section `saving`. Training runs on the CPU, as `training_overhead.py` does.

    Args:
        conditions (`Conditions`): How.
    """
    with tempfile.TemporaryDirectory() as folder:
        return [*training_state_rows(conditions, Path(folder)), publishing_row(conditions, Path(folder))]


def training_state_rows(conditions: Conditions, folder: Path) -> list[Row]:
    """Measure the stall of a save, and how long a state takes until it is written and verified.

    Args:
        conditions (`Conditions`): How.
        folder (`Path`): Where states go.
    """
    stage, arguments = folder / "stage", [f"--output_dir={folder}", "--report_to=none"]
    if conditions.is_tiny:
        arguments += ["--diffusion.train_batch_size=2", "--diffusion.cache_latents=false"]
    config = parse_config(["--config", str(_CONFIG), *arguments])
    num_saves = max(_FEWEST_SAVES, conditions.repetitions)
    save_every = 2 if conditions.is_tiny else SAVE_EVERY
    starts = train(config, build_task(config), stage, (num_saves + 1) * save_every, save_every)
    costs = costs_of_saves(starts, num_saves, save_every)
    newest = newest_checkpoint(stage)
    if newest is None:
        raise RuntimeError(f"{stage} holds no training state after {len(starts)} updates")
    state, size = read_checkpoint(newest), sum(file.stat().st_size for file in newest.iterdir())
    written = interleaved({"state": partial(save_checkpoint, stage, 1, state, None)}, conditions.repetitions)
    megabytes = f"{size / 1e6:.0f} MB"
    share = [stall / DEFAULT_INTERVAL / costs.step for stall in costs.stalls]
    return [
        cost_row("saving", "stall of a training state", "s", costs.stalls, note=f"digits.yaml, {megabytes}"),
        cost_row(
            "saving",
            "the stall, of the time of training",
            "%",
            [100 * one for one in share],
            note=_interval(costs.step),
        ),
        cost_row("saving", "training state written and verified", "s", written["state"], note=megabytes),
    ]


def _interval(step: float) -> str:
    return f"a save every {DEFAULT_INTERVAL} updates of {1e3 * step:.0f} ms"


def publishing_row(conditions: Conditions, folder: Path) -> Row:
    """Measure how long a repository takes that is checked and flushed, beside diffusers' `save_pretrained`.

    Args:
        conditions (`Conditions`): How.
        folder (`Path`): Where repositories go.
    """
    ours = load_ours(SHAPES)
    stock: Any = load_stock(SHAPES)
    components: dict[str, Any] = {
        name: getattr(ours, name) for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    }
    call = recommended_call(SHAPES)
    functions: dict[str, Callable[[], object]] = {
        "ours": lambda: export_pipeline(folder / "ours", **components, recommended_call=call),
        "stock": lambda: stock.save_pretrained(folder / "stock"),
    }
    seconds = interleaved(functions, conditions.repetitions)
    note = "ours is checked, flushed and put in place at once; diffusers' save_pretrained is not"
    return cost_row("saving", "publishing shapes-64", "s", seconds["ours"], seconds["stock"], note)
