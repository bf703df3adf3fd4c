"""1x1 convolutions as matrix products: the convolution's bits, and under autocast its numbers up to rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sd_pipeline.models.layer_kinds import specialise_layers
from sd_pipeline.models.pixelwise_convolution import PixelwiseConv2d
from sd_pipeline.models.small_map_convolution import SmallMapConv2d
from tests.components import tiny_unet


def pair(bias: bool = True) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(12, 20, 1, bias=bias)
    network = nn.Sequential(copy.deepcopy(plain))
    specialise_layers(network)
    return plain, network[0]


def test_only_plain_1x1_convolutions_change():
    others = [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Linear(4, 4),
    ]
    network = nn.ModuleList([nn.Conv2d(4, 4, 1), *others])
    specialise_layers(network)
    assert [type(layer) for layer in network] == [PixelwiseConv2d, *map(type, others)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [3, 12])
def test_without_autocast_it_is_the_convolution_to_the_bit(bias, side):
    plain, pixelwise = pair(bias)
    features = torch.randn(3, 12, side, side)
    assert torch.equal(pixelwise(features), plain(features))
    assert torch.equal(pixelwise(features[0]), plain(features[0]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [3, 12])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_under_autocast_outputs_and_gradients_differ_by_rounding(bias, side, memory_format):
    results = []
    for layer in pair(bias):
        torch.manual_seed(1)
        features = torch.randn(3, 12, side, side).to(memory_format=memory_format).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(features)
        assert output.dtype == torch.bfloat16
        assert type(layer) is nn.Conv2d or output.is_contiguous()
        output.backward(torch.randn_like(output, memory_format=torch.contiguous_format))
        results.append([output.detach(), features.grad, *(weight.grad for weight in layer.parameters())])
    # Or DDP would warn.
    assert all(weight.grad.stride() == weight.stride() for weight in layer.parameters())
    for expected, found in zip(*results, strict=True):
        scale = expected.float().abs().max().item()
        torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=0.02 * scale)


def test_the_u_net_has_them_and_keeps_its_keys():
    unet = tiny_unet()
    kinds = {type(module) for module in unet.modules() if isinstance(module, nn.Conv2d)}
    assert kinds == {nn.Conv2d, PixelwiseConv2d, SmallMapConv2d}
    assert type(unet.down_blocks[0].attentions[0].proj_in) is PixelwiseConv2d
