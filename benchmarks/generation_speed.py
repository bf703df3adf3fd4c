"""Seconds an image: this package's pipeline and diffusers', with the same weights, scheduler, steps and noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.compared_models import STUDENT, PipelinePair, draw, pair_of_11m, shapes_pair, student_pair
from benchmarks.measurement import Conditions, Row, cost_row, interleaved

_BATCH_SIZES = (1, 8)


def rows(conditions: Conditions) -> list[Row]:
    """Measure the section `generation`. Images come back to the CPU, so that a GPU has ended its work.

    Args:
        conditions (`Conditions`): How.
    """
    pairs: dict[str, tuple[Callable[[], PipelinePair], torch.dtype]] = {
        "shapes-64": (shapes_pair, torch.float32),
        "U-Net of 10.9 M": (pair_of_11m, torch.float32),
        "U-Net of 10.9 M, bfloat16": (pair_of_11m, torch.bfloat16),
    }
    if STUDENT.is_dir():
        pairs["student of shapes-64, diffusers with the teacher"] = (student_pair, torch.float32)
    batch_sizes: tuple[int, ...] = _BATCH_SIZES
    if conditions.is_tiny:
        pairs, batch_sizes = {"shapes-64": pairs["shapes-64"]}, (1,)
    found = []
    for name, (load, dtype) in pairs.items():
        pair = load().to(conditions.device, dtype)
        found += [_row(conditions, name, pair, batch_size) for batch_size in batch_sizes]
    return found


def _row(conditions: Conditions, name: str, pair: PipelinePair, batch_size: int) -> Row:
    images: dict[str, Any] = {}
    fewer = {"num_inference_steps": 2} if conditions.is_tiny else {}
    call = {**pair.call, **fewer}
    stock_call = {**(pair.stock_call or pair.call), **fewer}

    def draw_ours() -> None:
        images["ours"] = draw(pair.ours, call, batch_size)

    def draw_stock() -> None:
        images["stock"] = draw(pair.stock, stock_call, batch_size)

    seconds = interleaved({"ours": draw_ours, "stock": draw_stock}, conditions.repetitions)
    steps, stock_steps = call["num_inference_steps"], stock_call["num_inference_steps"]
    if pair.stock_call is None:
        difference = np.abs(images["ours"] - images["stock"]).max()
        note = f"{steps} steps; largest difference of a pixel value in [0, 1]: {difference:.1e}"
    else:
        note = f"{steps} steps, diffusers {stock_steps}"
    ours, stock = ([value / batch_size for value in seconds[key]] for key in ("ours", "stock"))
    return cost_row("generation", f"{name}, batch {batch_size}", "s/image", ours, stock, note)
