"""Writing down what made a loss or a gradient infinite or NaN: which samples, timesteps, norms and precision."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from training.engine.checkpointing import flush
from training.engine.sampling_order import SampleKey
from training.engine.state_tensors import whole

MAX_SKIPPED_IN_A_ROW = 10
"""Skipping more updates than this one after another cannot help: the weights are at fault, not the samples."""

_MAX_NAMED = 20


@dataclass(frozen=True)
class MicroBatch:
    """What is kept of a micro-batch until its update is done.

    Args:
        keys (sequence of `(int, int)`): Global sample number and index of each sample.
        timesteps (`torch.Tensor`, *optional*): Of shape `(batch_size,)`.
        losses (`dict[str, torch.Tensor]`): One number a sample, detached, float32.
    """

    keys: Sequence[SampleKey]
    timesteps: torch.Tensor | None
    losses: dict[str, torch.Tensor]


def is_non_finite(micro_batches: Sequence[MicroBatch], norms: Sequence[torch.Tensor]) -> torch.Tensor:
    """Say whether a loss of this process, or one of the gradients' norms, is not finite.

    Returns:
        `torch.BoolTensor`, a scalar, on the device: asking costs no synchronisation.
    """
    values = [loss.mean() for batch in micro_batches for loss in batch.losses.values()]
    return ~torch.isfinite(torch.stack([*values, *(norm.to(values[0].device) for norm in norms)])).all()


def describe(
    step: int,
    micro_batches: Sequence[MicroBatch],
    networks: Mapping[str, torch.nn.Module],
    norms: Mapping[str, torch.Tensor],
    precision: str,
    name_of: Any,
) -> dict[str, Any]:
    """Gather what is known of a failed update from all processes, each of which has to call this alike.

    Args:
        step (`int`): Updates done before it.
        micro_batches (sequence of `MicroBatch`): Of this process.
        networks (mapping of `torch.nn.Module`): Whose gradients are at hand, by name.
        norms (mapping of `torch.Tensor`): Their gradients' norms before clipping.
        precision (`str`): Of the computation.
        name_of (callable): Names a sample by its index.

    Returns:
        `dict`: JSON; numbers that are not finite as `"nan"` or `"inf"`.
    """
    samples = []
    for batch in micro_batches:
        for row, (number, index) in enumerate(batch.keys):
            sample = {"sample_number": number, "index": index, "name": name_of(index)}
            if batch.timesteps is not None:
                sample["timestep"] = int(batch.timesteps[row])
            samples.append(sample | {name: _json_number(loss[row]) for name, loss in batch.losses.items()})
    described: dict[str, Any] = {"step": step + 1, "mixed_precision": precision}
    for name, network in networks.items():
        gradients = {key: whole(p.grad.norm()) for key, p in network.named_parameters() if p.grad is not None}
        weights = torch.stack([whole(p.detach().norm()) for p in network.parameters()])
        described[name] = {
            "grad_norm": _json_number(norms[name]),
            "weight_norm": _json_number(weights.norm()),
            "parameters_with_non_finite_gradients": [k for k, g in gradients.items() if not torch.isfinite(g)][
                :_MAX_NAMED
            ],
        }
    described["samples"] = sorted(gather_object(samples), key=lambda sample: sample["sample_number"])
    return described


def append_record(record: Mapping[str, Any], file: Path) -> None:
    """Append a record as one line of JSON, for good."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
    flush(file)


def failure_message(stage: str, record: Mapping[str, Any], file: Path) -> str:
    """Tell a person in one line where training met a number that is not finite.

    Args:
        stage (`str`): The stage.
        record (mapping): From `describe`.
        file (`Path`): Where the record stands.
    """
    bad = [f"{s['name']} (loss {s['loss']})" for s in record["samples"] if isinstance(s["loss"], str)]
    what = f"the loss of {', '.join(bad[:3])}" if bad else "a gradient, though every sample's loss is finite,"
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"{stage} step {record['step']}: {what}{more} is not finite; see {file}; the last training state stands"


def _json_number(value: torch.Tensor) -> float | str:
    number = float(value)
    return number if torch.isfinite(torch.tensor(number)) else str(number)
