"""What one process knows and all have to act on, at the same step."""

from __future__ import annotations

import torch
from accelerate import Accelerator


def agree(accelerator: Accelerator, *flags: bool | torch.Tensor) -> list[bool]:
    """Say of each flag whether any process has set it; one exchange for all of them.

    Args:
        accelerator (`accelerate.Accelerator`): The processes, each of which has to call this alike.
        flags (`bool`, or `torch.Tensor` with one element): What this process knows.

    Returns:
        `list[bool]`: the same on all processes.
    """
    device = accelerator.device
    own = torch.stack([torch.as_tensor(flag, device=device).detach().float().reshape(()) for flag in flags])
    if accelerator.num_processes > 1:
        own = accelerator.reduce(own, reduction="sum")
    return [count > 0 for count in own.tolist()]
