"""A fixed little network to drive samplers with: smooth, bounded, dependent on the timestep."""

from __future__ import annotations

import torch


def toy_network(sample: torch.Tensor, timestep: int, num_outputs: int = 1) -> torch.Tensor:
    phase = 0.002 * int(timestep)
    outputs = [torch.sin(1.3 * sample + phase + index) * 0.9 for index in range(num_outputs)]
    return torch.cat(outputs, dim=1)
