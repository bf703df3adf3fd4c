"""How the loss depends on the timestep: its mean in ten ranges of timesteps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator

from training.engine.non_finite import MicroBatch

_RANGES = 10


class TimestepLosses:
    """Collects losses by timestep between two logged steps, on the device: nothing waits for it.

    Args:
        num_timesteps (`int`): T; timesteps are in [0, T).
        accelerator (`accelerate.Accelerator`): Device and processes.
    """

    def __init__(self, num_timesteps: int, accelerator: Accelerator) -> None:
        self.num_timesteps = num_timesteps
        self.num_ranges = min(_RANGES, num_timesteps)
        self.accelerator = accelerator
        self._sums = torch.zeros(2, self.num_ranges, device=accelerator.device)

    def add(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Count the samples of an update in."""
        for batch in micro_batches:
            if batch.timesteps is not None:
                losses = batch.losses["loss"]
                ranges = batch.timesteps * self.num_ranges // self.num_timesteps
                self._sums.index_add_(1, ranges, torch.stack([losses, torch.ones_like(losses)]))

    def means(self) -> dict[str, float]:
        """Average what all processes have collected, and begin anew. Every process has to call it.

        Returns:
            `dict`: Mean loss by range, such as `"loss_t000_099"`, both ends included; ranges without a sample are not
            in it. Weighted by their numbers of samples they average to the mean loss of the updates.
        """
        sums, counts = self.accelerator.reduce(self._sums, reduction="sum").tolist()
        self._sums = torch.zeros_like(self._sums)
        means = zip(range(self.num_ranges), sums, counts, strict=True)
        return {self._name(number): total / count for number, total, count in means if count > 0}

    def _name(self, number: int) -> str:
        # The first t with t * ranges // T == number is number * T / ranges, rounded up.
        first, end = (-(-n * self.num_timesteps // self.num_ranges) for n in (number, number + 1))
        width = len(str(self.num_timesteps - 1))
        return f"loss_t{first:0{width}}_{end - 1:0{width}}"
