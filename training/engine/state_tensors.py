"""What of a training is tensors: gathered whole from all processes, by name, and put back wherever it belongs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from training.engine.checkpointing import CheckpointError


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a sharded tensor; every process has to call it alike. Others are returned as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """Put a whole tensor on the device of `model`, sharded if that is."""
    tensor = tensor.to(model.device)
    return distribute_tensor(tensor, model.device_mesh, model.placements) if isinstance(model, DTensor) else tensor


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a sharded tensor, in place; others are returned as they are."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def whole_of_parts(part: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """Gather the parts of a tensor that is sharded as `model` is; every process has to call it alike."""
    if not isinstance(model, DTensor):
        return part
    layout = (model.device_mesh, model.placements)
    return DTensor.from_local(part, *layout, run_check=False, shape=model.shape, stride=model.stride()).full_tensor()


def trained_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's state without what is frozen, which whoever builds the model brings along.

    Args:
        model (`torch.nn.Module`): The model, not wrapped.
    """
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: whole(tensor) for name, tensor in model.state_dict().items() if name not in frozen}


def load_trained_tensors(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restore what `trained_tensors` returned.

    Raises:
        CheckpointError: If the state is not one of this model.
    """
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
    differing = sorted(expected.keys() ^ tensors.keys())
    if differing:
        raise CheckpointError(f"the training state does not fit the model: {differing[0]!r} is in one of them only")
    model.load_state_dict({name: like(tensors[name], expected[name]) for name in expected}, strict=False)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as `{"parameter name/state name": tensor}`.

    Args:
        optimizer (`torch.optim.Optimizer`): Its parameters are the model's.
        model (`torch.nn.Module`): Gives the names.
    """
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": whole(torch.as_tensor(value))
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None  # The momentum of descent without any.
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Restore what `optimizer_tensors` returned.

    Raises:
        CheckpointError: If a state belongs to no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, state_name = key.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"optimizer state of {name!r}, which the model does not have")
        parameter = parameters[name]
        is_moment = value.shape == parameter.shape and value.ndim > 0
        optimizer.state[parameter][state_name] = like(value, parameter) if is_moment else value.to(parameter.device)
