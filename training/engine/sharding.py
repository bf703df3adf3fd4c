"""Putting a network under all processes: replicated (DDP), or its parameters sharded over them (FSDP2)."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import fully_shard


def wants_sharding() -> bool:
    """Say whether the launcher's configuration asks for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def prepare(
    accelerator: Accelerator, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Wrap a network and its optimizer as the launcher's configuration says.

    accelerate shards on accelerators only and would silently replicate on CPUs; there torch's own `fully_shard` does
    it.

    Args:
        accelerator (`accelerate.Accelerator`): Device and processes.
        model (`torch.nn.Module`): The network, on its device.
        optimizer (`torch.optim.Optimizer`): Without any state yet.

    Returns:
        The network to call and the optimizer to step. Sharding changes the given two in place.
    """
    if accelerator.is_fsdp2:
        return accelerator.prepare(model, optimizer)
    if wants_sharding() and accelerator.device.type == "cpu" and accelerator.num_processes > 1:
        names = {parameter: name for name, parameter in model.named_parameters()}
        grouped = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
        for child in model.children():
            fully_shard(child)
        fully_shard(model)
        sharded = dict(model.named_parameters())
        for group, members in zip(optimizer.param_groups, grouped, strict=True):
            group["params"] = [sharded[name] for name in members]
        # accelerate knows the sharded network for autocast only.
        return accelerator.prepare_model(model, evaluation_mode=True), accelerator.prepare_optimizer(optimizer)
    return accelerator.prepare_model(model), accelerator.prepare_optimizer(optimizer)
