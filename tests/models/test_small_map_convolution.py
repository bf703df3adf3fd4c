"""3x3 convolutions of small maps: the convolution's bits, and under autocast its gradients up to rounding."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sd_pipeline.models.layer_kinds import specialise_layers
from sd_pipeline.models.small_map_convolution import SmallMapConv2d, patches
from tests.components import tiny_unet


def pair() -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(12, 20, 3, padding=1)
    network = nn.Sequential(copy.deepcopy(plain))
    specialise_layers(network)
    return plain, network[0]


def test_only_convolutions_that_keep_the_size_change():
    others = [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Linear(4, 4),
    ]
    network = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), *others])
    specialise_layers(network)
    assert [type(layer) for layer in network] == [SmallMapConv2d, *map(type, others)]
    kinds = {type(module) for module in tiny_unet().modules() if isinstance(module, nn.Conv2d)}
    assert SmallMapConv2d in kinds


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_patches_hold_the_neighbours_of_each_pixel(memory_format):
    torch.manual_seed(0)
    features = torch.randn(2, 5, 3, 4).to(memory_format=memory_format)
    expected = F.unfold(features, 3, padding=1).unflatten(1, (5, 9)).permute(0, 3, 2, 1).reshape(2 * 3 * 4, 9 * 5)
    assert torch.equal(patches(features), expected)


@pytest.mark.parametrize("side", [3, 12])
def test_without_autocast_it_is_the_convolution_to_the_bit(side):
    plain, small = pair()
    features = torch.randn(3, 12, side, side)
    results = []
    for layer in (plain, small):
        inputs = features.clone().requires_grad_()
        output = layer(inputs)
        output.square().sum().backward()
        results.append([output, inputs.grad, layer.weight.grad, layer.bias.grad, layer(features[0])])
    assert all(torch.equal(found, expected) for expected, found in zip(*results, strict=True))


@pytest.mark.parametrize("shape", [(3, 12, 4, 4), (3, 12, 7, 7), (1, 12, 1, 5), (2, 12, 9, 9)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_under_autocast_gradients_differ_by_rounding(shape, memory_format):
    results = []
    for layer in pair():
        torch.manual_seed(1)
        features = torch.randn(shape).to(memory_format=memory_format).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(features)
        assert output.dtype == torch.bfloat16
        output.backward(torch.randn_like(output, memory_format=torch.contiguous_format))
        assert all(weight.grad.dtype == torch.float32 for weight in layer.parameters())
        assert all(weight.grad.stride() == weight.stride() for weight in layer.parameters())
        results.append([output.detach(), features.grad, *(weight.grad for weight in layer.parameters())])
    assert torch.equal(results[0][0], results[1][0])
    for expected, found in zip(*results, strict=True):
        scale = expected.float().abs().max().item()
        torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=0.02 * scale)


def test_features_that_need_no_gradient_have_none():
    _, small = pair()
    with torch.autocast("cpu", torch.bfloat16):
        small(torch.randn(2, 12, 4, 4)).sum().backward()
    assert small.weight.grad.abs().sum() > 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert small(torch.randn(2, 12, 4, 4)).grad_fn is None
