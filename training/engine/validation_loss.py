"""A validation: the loss on held-out samples, of averaged and of raw weights, beside what the task itself measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from training.engine.ema import AveragedWeights, as_evaluated
from training.engine.task import Batch, Task, Validation
from training.engine.timestep_losses import range_of_timesteps, timestep_ranges


def validated(task: Task, step: int, accelerator: Accelerator, average: AveragedWeights | None) -> Validation:
    """Validate a task. Every process has to call it.

    Args:
        task (`Task`): What is trained.
        step (`int`): Updates that are done.
        accelerator (`accelerate.Accelerator`): Device, processes and precision.
        average (`AveragedWeights`, *optional*): Of its model's weights.

    Returns:
        `Validation`: That of the task, with its model averaged, and of its `validation_batches`, if it has any,
        `"loss"` and its parts, with timesteps also in their ranges, such as `"loss_t000_099"`; `"loss_raw"` is that of
        the weights before averaging.
    """
    batches, metrics = task.validation_batches(), {}
    if batches and average is not None:
        with as_evaluated(task.model, None):
            metrics["loss_raw"] = mean_losses(task, step, accelerator, batches)["loss"]
    with as_evaluated(task.model, average):
        if batches:
            metrics = mean_losses(task, step, accelerator, batches) | metrics
        found = task.validate(step)
    return Validation({**found.metrics, **metrics}, found.images)


def mean_losses(
    task: Task, step: int, accelerator: Accelerator, batches: Sequence[Callable[[], Batch]]
) -> dict[str, float]:
    """Average the losses of batches over their samples, with the model as it stands, in float64.

    The processes share the batches, and each does work in every round, as a model demands whose parameters are sharded
    over them. The batches are the same for any number of processes, and so is the order of the sums.

    Args:
        task (`Task`): Its model is in evaluation mode, and no gradients are recorded.
        step (`int`): Updates that are done.
        accelerator (`accelerate.Accelerator`): Device, processes and precision.
        batches (sequence of callables): From `Task.validation_batches`, at least one.

    Returns:
        `dict[str, float]`: By name, `"loss"` first; with timesteps, its means in their ranges follow. A range without
        a sample is not in it.
    """
    own: list[tuple[int, Batch]] = []
    for first in range(0, len(batches), accelerator.num_processes):
        number = first + accelerator.process_index
        losses = _losses(task, step, accelerator, batches[min(number, len(batches) - 1)])
        if number < len(batches):
            own.append((number, losses))
    ordered = [losses for _, losses in sorted(gather_object(own), key=lambda numbered: numbered[0])]
    values = {name: torch.cat([losses[name] for losses in ordered]) for name in ordered[0]}
    timesteps = values.pop("timesteps", None)
    means = {name: float(value.mean()) for name, value in values.items()}
    if timesteps is not None:
        ranges = range_of_timesteps(timesteps, task.num_timesteps)
        for number, name in enumerate(timestep_ranges(task.num_timesteps)):
            if (ranges == number).any():
                means[f"loss_{name}"] = float(values["loss"][ranges == number].mean())
    return means


def _losses(task: Task, step: int, accelerator: Accelerator, make: Callable[[], Batch]) -> Batch:
    """Give the losses of a batch's samples on the CPU, and their timesteps if they have some."""
    batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in make().items()}
    inputs = task.prepare_batch(batch, step)
    with accelerator.autocast():
        outputs = task.model(**inputs)
    losses = {name: value.cpu().double() for name, value in outputs.items() if value.ndim == 1}
    return losses | ({"timesteps": batch["timesteps"].cpu()} if task.num_timesteps else {})
