"""Matrices and convolutions decay; biases, norms and scalars do not."""

from __future__ import annotations

import torch

from training.tasks.parameter_groups import decay_matrices_only


def network() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.Linear(8, 2))
    model.register_parameter("scale", torch.nn.Parameter(torch.ones(())))
    return model


def names(model: torch.nn.Module, group: dict) -> list[str]:
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    return sorted(name_of[parameter] for parameter in group["params"])


def test_every_trained_parameter_is_in_one_group():
    model = network()
    decaying, others = decay_matrices_only(model, lr=0.1)
    assert names(model, decaying) == ["0.weight", "2.weight"]
    assert names(model, others) == ["0.bias", "1.bias", "1.weight", "2.bias", "scale"]
    assert (decaying["lr"], others["lr"], others["weight_decay"]) == (0.1, 0.1, 0.0)
    assert "weight_decay" not in decaying


def test_what_is_frozen_and_what_is_empty_is_left_out():
    model = network()
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    (group,) = decay_matrices_only(model)
    assert names(model, group) == ["1.bias", "1.weight", "scale"]


def test_decay_moves_matrices_only():
    model = network()
    optimizer = torch.optim.AdamW(decay_matrices_only(model), lr=0.1, weight_decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if parameter.ndim >= 2 else before[name]
        torch.testing.assert_close(parameter.detach(), expected)
