"""What the trainer asks of a task: a model with a loss, batches, validation and an export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Args:
        metrics (`dict[str, float]`): Numbers by name.
        images (`dict[str, PIL.Image.Image]`): Pictures by name.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    images: dict[str, Image.Image] = field(default_factory=dict)


class Task(Protocol):
    """One thing that can be trained.

    Attributes:
        name (`str`): The stage, as in the configuration.
        model (`torch.nn.Module`): Holds every parameter trained on its loss. Its `forward(**batch)` returns per-sample
            tensors of shape `(batch_size,)` by name, `"loss"` among them; the trainer takes their means in float32.
            What has another shape is for `adversary_batch`. Whatever is trained is reached through this one call, so
            that a distributed wrapper sees it.
        adversary (`torch.nn.Module`, *optional*): A second network, which learns against the first one in every step,
            with an optimizer of its own; it is no submodule of `model`. Its `forward(**adversary_batch)` returns such
            tensors too.
        shardable (`bool`): Whether the parameters of the model's networks may be sharded over the processes (FSDP2).
        num_timesteps (`int`): T, if its batches have `timesteps` in [0, T); otherwise 0.
        dataset (`torch.utils.data.Dataset`): Map-style; indexed by `(sample_number, index)`. It may have an attribute
            `order`, the `SampleOrder` it is read in; otherwise it is shuffled.
    """

    name: str
    shardable: bool
    num_timesteps: int

    @property
    def model(self) -> torch.nn.Module: ...  # noqa: D102

    @property
    def adversary(self) -> torch.nn.Module | None: ...  # noqa: D102

    @property
    def dataset(self) -> torch.utils.data.Dataset[Any]: ...  # noqa: D102

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; a group may override `lr` and `weight_decay`."""
        ...

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Make a batch, and draw everything random about its samples, keyed by their numbers. May run in a worker."""
        ...

    def adversary_parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of the adversary's optimizer."""
        ...

    def prepare_batch(self, batch: Batch, step: int) -> Batch:
        """Do what needs frozen networks; the tensors are on the device. Return the arguments of `model.forward`."""
        ...

    def adversary_batch(self, batch: Batch, outputs: Batch) -> Batch | None:
        """Return the adversary's arguments, detached, from those and the outputs of the model; none while it rests."""
        ...

    def sample_name(self, index: int) -> str:
        """Name a sample of the data set so that a person finds it."""
        ...

    def validation_batches(self) -> Sequence[Callable[[], Batch]]:
        """Give what the loss on held-out samples is measured on, the same batches whenever it is asked.

        Each makes a batch as `collate` does when it is called, which every process may do. Nothing drawn in it depends
        on the seed of the run. Empty where there are no held-out samples, or the loss is no mean over samples.
        """
        ...

    def validate(self, step: int) -> Validation:
        """Measure the model as it stands (the trainer has put averaged weights into it). No randomness but keyed."""
        ...

    def export(self, folder: Path) -> None:
        """Write the finished output of the stage into the empty `folder`, from the model as it stands."""
        ...


class WithoutAdversary:
    """What a task with one network answers about a second one."""

    adversary: torch.nn.Module | None = None

    def adversary_parameter_groups(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def adversary_batch(self, batch: Batch, outputs: Batch) -> Batch | None:
        """Nothing."""
        return None
