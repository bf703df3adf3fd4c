"""What a training consists of while it runs, as one state for the disk, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.amp.grad_scaler import GradScaler

from training.engine.checkpointing import TrainingState
from training.engine.ema import AveragedWeights
from training.engine.optimisation import Optimisation


def gather_state(
    networks: Mapping[str, Optimisation],
    average: AveragedWeights | None,
    scaler: GradScaler | None,
    values: Mapping[str, Any],
) -> TrainingState:
    """Gather the state from all processes, each of which has to call this alike.

    Args:
        networks (mapping of `Optimisation`): The networks in training, the first of them called `"model"`.
        average (`AveragedWeights`, *optional*): Their average.
        scaler (`GradScaler`, *optional*): Of float16 training.
        values (mapping): What else is to be kept, as JSON.

    Returns:
        `TrainingState`: its tensors are those in use; copy them before the next update.
    """
    tensors = {}
    for name, network in networks.items():
        tensors[name], tensors[_optimizer_of(name)] = network.state_tensors()
    if average is not None:
        tensors["ema"] = average.state_dict()
    return TrainingState(tensors, {**values, **({} if scaler is None else {"grad_scaler": scaler.state_dict()})})


def restore_state(
    state: TrainingState,
    networks: Mapping[str, Optimisation],
    average: AveragedWeights | None,
    scaler: GradScaler | None,
) -> None:
    """Put back what `gather_state` gathered.

    Raises:
        CheckpointError: If the state is one of other networks.
    """
    for name, network in networks.items():
        network.load(state.tensors[name], state.tensors[_optimizer_of(name)], state.values["step"])
    if average is not None:
        average.load_state_dict(state.tensors["ema"])
    if scaler is not None and "grad_scaler" in state.values:
        scaler.load_state_dict(state.values["grad_scaler"])


def _optimizer_of(name: str) -> str:
    return "optimizer" if name == "model" else f"{name}_optimizer"
