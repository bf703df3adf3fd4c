"""How the loss depends on the timestep: its mean in ten ranges of timesteps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from accelerate import Accelerator

from training.engine.non_finite import MicroBatch

_RANGES = 10


def timestep_ranges(num_timesteps: int) -> list[str]:
    """Name the ranges, both ends included.

    Args:
        num_timesteps (`int`): T; timesteps are in [0, T).

    Returns:
        `list[str]`: Such as `"t000_099"`, in order.
    """
    number, width = min(_RANGES, num_timesteps), len(str(num_timesteps - 1))
    # The first t with t * number // T == n is n * T / number, rounded up.
    starts = [-(-n * num_timesteps // number) for n in range(number + 1)]
    return [f"t{first:0{width}}_{end - 1:0{width}}" for first, end in itertools.pairwise(starts)]


def range_of_timesteps(timesteps: torch.Tensor, num_timesteps: int) -> torch.Tensor:
    """Tell which of `timestep_ranges` each timestep is in.

    Args:
        timesteps (`torch.LongTensor`, any shape): In [0, T).
        num_timesteps (`int`): T.

    Returns:
        `torch.LongTensor` of the same shape.
    """
    return timesteps * min(_RANGES, num_timesteps) // num_timesteps


class TimestepLosses:
    """Collects losses by timestep between two logged steps, on the device: nothing waits for it.

    Args:
        num_timesteps (`int`): T; timesteps are in [0, T).
        accelerator (`accelerate.Accelerator`): Device and processes.
    """

    def __init__(self, num_timesteps: int, accelerator: Accelerator) -> None:
        self.num_timesteps = num_timesteps
        self.accelerator = accelerator
        self._names = timestep_ranges(num_timesteps)
        self._sums = torch.zeros(2, len(self._names), device=accelerator.device)

    def add(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Count the samples of an update in."""
        for batch in micro_batches:
            if batch.timesteps is not None:
                losses = batch.losses["loss"]
                ranges = range_of_timesteps(batch.timesteps, self.num_timesteps)
                self._sums.index_add_(1, ranges, torch.stack([losses, torch.ones_like(losses)]))

    def means(self) -> dict[str, float]:
        """Average what all processes have collected, and begin anew. Every process has to call it.

        Returns:
            `dict`: Mean loss by range, such as `"loss_t000_099"`, both ends included; ranges without a sample are not
            in it. Weighted by their numbers of samples they average to the mean loss of the updates.
        """
        sums, counts = self.accelerator.reduce(self._sums, reduction="sum").tolist()
        self._sums = torch.zeros_like(self._sums)
        means = zip(self._names, sums, counts, strict=True)
        return {f"loss_{name}": total / count for name, total, count in means if count > 0}
