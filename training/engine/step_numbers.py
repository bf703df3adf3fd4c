"""The numbers of a logged step, over all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator

from training.engine.memory import peak_memory
from training.engine.non_finite import MicroBatch
from training.engine.timestep_losses import TimestepLosses


class StepNumbers:
    """Makes a row out of the losses of an update, and of what was collected since the last row.

    Args:
        accelerator (`accelerate.Accelerator`): Device and processes.
        num_timesteps (`int`): Timesteps of the task, or 0; with them the loss is also told by timestep.
    """

    def __init__(self, accelerator: Accelerator, num_timesteps: int) -> None:
        self.accelerator = accelerator
        self.timestep_losses = TimestepLosses(num_timesteps, accelerator) if num_timesteps else None

    def add(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Collect from an update that was made, logged or not."""
        if self.timestep_losses is not None:
            self.timestep_losses.add(micro_batches)

    def row(
        self, micro_batches: Sequence[MicroBatch], norms: Mapping[str, torch.Tensor], learning_rate: float
    ) -> dict[str, float]:
        """Average an update's losses over all processes; each of them has to call it.

        Args:
            micro_batches (sequence of `MicroBatch`): Of this process.
            norms (mapping of `torch.Tensor`): The gradients' norms before clipping, by network.
            learning_rate (`float`): Of the update.

        Returns:
            `dict`: `"loss"` and its parts, the mean loss by timestep since the last row (or since a resume), the
            gradients' norms, and in GB the most memory that a process has had in use so far.
        """
        names = list(micro_batches[-1].losses)
        sums = [sum(m.losses[name].mean() / len(micro_batches) for m in micro_batches) for name in names]
        means = self.accelerator.reduce(torch.stack(sums), reduction="mean")  # type: ignore[arg-type]
        row: dict[str, float] = dict(zip(names, means.tolist(), strict=True))
        if self.timestep_losses is not None:
            row |= self.timestep_losses.means()
        row["grad_norm"] = float(norms["model"])
        if "discriminator_loss" in row:
            row["discriminator_grad_norm"] = float(norms["adversary"])
        row["learning_rate"] = learning_rate
        memory = torch.tensor([peak_memory(self.accelerator.device) / 1e9], device=self.accelerator.device)
        row["peak_memory_gb"] = float(self.accelerator.gather(memory).max())
        return row
