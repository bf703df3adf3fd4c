"""What the trainer asks of a task: a model with a loss, batches, validation and an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        model (`torch.nn.Module`): Holds every trained parameter. Its `forward(**batch)` returns per-sample tensors of
            shape `(batch_size,)` by name, `"loss"` among them; the trainer takes their means in float32. Whatever is
            trained is reached through this one call, so that a distributed wrapper sees it.
        dataset (`torch.utils.data.Dataset`): Map-style; indexed by `(sample_number, index)`. It may have an attribute
            `order`, the `SampleOrder` it is read in; otherwise it is shuffled.
    """

    name: str

    @property
    def model(self) -> torch.nn.Module: ...  # noqa: D102

    @property
    def dataset(self) -> torch.utils.data.Dataset[Any]: ...  # noqa: D102

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; a group may override `lr` and `weight_decay`."""
        ...

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Make a batch, and draw everything random about its samples, keyed by their numbers. May run in a worker."""
        ...

    def prepare_batch(self, batch: Batch) -> Batch:
        """Do what needs frozen networks; the tensors are on the device. Return the arguments of `model.forward`."""
        ...

    def validate(self, step: int) -> Validation:
        """Measure the model as it stands (the trainer has put averaged weights into it). No randomness but keyed."""
        ...

    def export(self, folder: Path) -> None:
        """Write the finished output of the stage into the empty `folder`, from the model as it stands."""
        ...
