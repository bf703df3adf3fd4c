"""Clipping: what torch's does, whether there is something to clip or not."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator

from training.config import DiffusionConfig
from training.engine.optimisation import Optimisation
from training.tasks.parameter_groups import decay_matrices_only


@pytest.mark.parametrize("max_grad_norm", [0.01, 1.0, 1e6])
@pytest.mark.parametrize("value", [1.0, float("inf")])
def test_gradients_are_clipped_as_torch_clips_them(max_grad_norm, value):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    (model(torch.randn(3, 4)).square().sum() * value).backward()
    expected = copy.deepcopy(model)
    for parameter, own in zip(expected.parameters(), model.parameters(), strict=True):
        parameter.grad = own.grad.clone()
    expected_norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), max_grad_norm)

    settings = DiffusionConfig(max_grad_norm=max_grad_norm)
    network = Optimisation(model, decay_matrices_only(model), settings, Accelerator(cpu=True))
    norm = network.clip_gradients()

    torch.testing.assert_close(norm, expected_norm, equal_nan=True)
    for own, parameter in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own.grad, parameter.grad, equal_nan=True)


def test_without_gradients_the_norm_is_zero():
    model = torch.nn.Linear(4, 2)
    network = Optimisation(model, decay_matrices_only(model), DiffusionConfig(), Accelerator(cpu=True))
    assert network.clip_gradients() == 0
