"""One network in training: its weights, its optimizer and its learning rate over the updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from training.config import StageConfig
from training.engine.distribution import distribute, sharded_parts
from training.engine.state_tensors import (
    load_optimizer_tensors,
    load_trained_tensors,
    optimizer_tensors,
    trained_tensors,
    whole,
)


class Optimisation:
    """Optimises one network, on all processes.

    Args:
        model (`torch.nn.Module`): The network. It is moved to the device, and called through `self.wrapped` alone.
        parameter_groups (sequence of `dict`): Of the optimizer; a group may override `lr` and `weight_decay`.
        settings (`StageConfig`): How.
        accelerator (`accelerate.Accelerator`): Device, processes and the gradient scaler of float16.
        shardable (`bool`, defaults to `False`): Whether its parameters may be sharded over the processes.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        parameter_groups: Sequence[dict[str, Any]],
        settings: StageConfig,
        accelerator: Accelerator,
        shardable: bool = False,
    ) -> None:
        self.model = model.to(accelerator.device)
        self.scaler = accelerator.scaler
        self.max_grad_norm = settings.max_grad_norm
        optimizer = build_optimizer(parameter_groups, settings)
        # Asked for the rates, never stepped: they are a function of the number of updates.
        schedule = get_scheduler(
            settings.lr_scheduler,
            optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=settings.max_train_steps,
        )
        self._peaks_and_factors = list(zip(schedule.base_lrs, schedule.lr_lambdas, strict=True))
        self.optimizer = optimizer
        self.wrapped = distribute(accelerator, model, optimizer, shardable)
        self._parameters = list(model.parameters())

    def accumulating(self, is_last: bool) -> AbstractContextManager[None]:
        """Open the context of a micro-batch's forward and backward pass; gradients are averaged in the last one."""
        for part in sharded_parts(self.model):
            part.set_requires_gradient_sync(is_last)
        if isinstance(self.wrapped, DistributedDataParallel) and not is_last:
            return self.wrapped.no_sync()
        return nullcontext()

    def clip_gradients(self) -> torch.Tensor:
        """Scale the gradients down to `max_grad_norm`.

        Returns:
            `torch.Tensor`, a scalar: their global norm before.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = global_norm([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        # Most norms are small, and a multiplication by 1 goes through all gradients. On an accelerator it is cheaper
        # than to wait for the norm.
        whole_norm = whole(norm)
        if norm.device.type != "cpu" or not whole_norm <= self.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.max_grad_norm, norm)
        return whole_norm

    def update(self, step: int, is_skipped: bool = False) -> None:
        """Make update number `step`, counted from 1, unless it `is_skipped`, and forget the gradients."""
        if not is_skipped and self.scaler is not None:
            self.scaler.step(self.optimizer)
        elif not is_skipped:
            self.optimizer.step()
        self._set_learning_rates(step)
        self.optimizer.zero_grad(set_to_none=True)

    def _set_learning_rates(self, step: int) -> None:
        for group, (peak, factor) in zip(self.optimizer.param_groups, self._peaks_and_factors, strict=True):
            group["lr"] = peak * factor(step)

    @property
    def learning_rate(self) -> float:
        """The present learning rate of the first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the tensors of network and optimizer, whole; every process has to call it alike."""
        return trained_tensors(self.model), optimizer_tensors(self.optimizer, self.model)

    def load(self, model: Mapping[str, torch.Tensor], optimizer: Mapping[str, torch.Tensor], step: int) -> None:
        """Restore what `state_tensors` returned after `step` updates.

        Raises:
            CheckpointError: If the state is one of another network.
        """
        load_trained_tensors(self.model, model)
        load_optimizer_tensors(self.optimizer, self.model, optimizer)
        self._set_learning_rates(step)


def global_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Work out the norm of all gradients together: sqrt(sum of squares).

    Args:
        gradients (sequence of `torch.Tensor`): On one device; they may be sharded.

    Returns:
        `torch.Tensor`: A scalar, sharded if they are.
    """
    if not gradients or any(isinstance(gradient, DTensor) or gradient.device.type != "cpu" for gradient in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    # On a CPU torch's norms of tensors take 1.6 times as long as their products with themselves.
    vectors = [gradient.reshape(-1) for gradient in gradients]
    return torch.stack([torch.dot(vector, vector) for vector in vectors]).sum().sqrt()


def build_optimizer(parameter_groups: Sequence[dict[str, Any]], settings: StageConfig) -> torch.optim.Optimizer:
    """Build the optimizer that a stage asks for.

    Args:
        parameter_groups (sequence of `dict`): A group may override `lr` and `weight_decay`.
        settings (`StageConfig`): Which, and how.

    Returns:
        `torch.optim.Optimizer`: `AdamW` or `SGD`.
    """
    groups = list(parameter_groups)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.sgd_momentum, fused=True)
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.adam_weight_decay,
        eps=settings.adam_epsilon,
        fused=True,
    )
