"""Putting a network under all processes: replicated (DDP), or its parameters sharded over them (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel


def distribute(
    accelerator: Accelerator, model: torch.nn.Module, optimizer: torch.optim.Optimizer, shardable: bool
) -> torch.nn.Module:
    """Wrap a network as the launcher's configuration says.

    Torch does the wrapping: accelerate shards on accelerators only and silently replicates on CPUs, and has room for
    one sharded network.

    Args:
        accelerator (`accelerate.Accelerator`): Device and processes.
        model (`torch.nn.Module`): The network, on its device.
        optimizer (`torch.optim.Optimizer`): Of its parameters, without any state yet; sharding gives it the new ones.
        shardable (`bool`): Whether sharding is worth its while; otherwise the network is replicated.

    Returns:
        `torch.nn.Module`: the network to call in training.
    """
    if accelerator.num_processes == 1:
        return model
    if shardable and wants_sharding():
        _shard(model, optimizer)
        return model
    device_ids = [accelerator.device] if accelerator.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids)


def wants_sharding() -> bool:
    """Say whether the launcher's configuration asks for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def sharded_parts(model: torch.nn.Module) -> list[FSDPModule]:
    """Return the networks in `model` that are sharded by themselves."""
    return [child for child in model.children() if isinstance(child, FSDPModule)]


def _shard(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Shard every network in `model`, block by block, so that validation can call each of them alone."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    grouped = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    resharded = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"
    offloaded = os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true"
    policy = CPUOffloadPolicy() if offloaded else OffloadPolicy()
    for child in model.children():
        for block in _blocks(child):
            fully_shard(block, reshard_after_forward=resharded, offload_policy=policy)
        fully_shard(child, reshard_after_forward=resharded, offload_policy=policy)
    sharded = dict(model.named_parameters())
    for group, members in zip(optimizer.param_groups, grouped, strict=True):
        group["params"] = [sharded[name] for name in members]


def _blocks(network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield the blocks that are gathered at a time: those that the launcher names, or the network's class does."""
    given = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP")
    kinds = given.split(",") if given else list(getattr(network, "_no_split_modules", None) or [])
    found = [module for module in network.modules() if type(module).__name__ in kinds]
    yield from (m for m in found if not any(m is not other and m in list(other.modules()) for other in found))
