"""Convolutions and linear layers as oneDNN, the library behind them on CPUs, computes them fastest.

It wants weights in a layout of its own. `torch.nn.functional.conv2d` brings them into it in every call, which takes as
long as the convolution itself where feature maps are small; linear layers do not reach oneDNN at all in float32, but
MKL, which runs at half its speed on processors that are not Intel's; and what is done to each number of a result can
be done while it is still in a register. The operations used here are those that `torch.compile` writes into its
programs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from torch import nn

Layer = Callable[[torch.Tensor], torch.Tensor]

RunLayer = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""Called with a layer and its input; returns what the layer makes of it."""

# A packed copy lives beside the weights. Models of gigabytes are large enough that packing is a small part of their
# convolutions, and small enough that somebody has just the memory for them.
_MOST_PACKED_BYTES = 2**30
# With fewer multiplications the way to oneDNN takes longer than it saves: 16 microseconds where MKL needs 11 for 128
# rows of 64 channels to 64, but 33 where it needs 48 to 512.
_FEWEST_MULTIPLICATIONS = 2**21


def call_layer(layer: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Apply a layer as it is: the plain `RunLayer`."""
    output: torch.Tensor = layer(features)
    return output


class PackedLayers:
    """A `RunLayer` that keeps copies of weights in the layout in which a CPU computes.

    Its results differ from those of the layers by rounding. A copy is made when its layer is first applied, or is
    applied to another shape than before, and does not follow what happens to the weights later. Layers that are no
    plain `torch.nn.Conv2d`, `torch.nn.Linear` or gated linear unit (such as those with an adapter around them), or are
    not on a CPU, are called as they are.

    Args:
        network (`torch.nn.Module`): Whose layers are applied, without gradients.
    """

    def __init__(self, network: nn.Module) -> None:
        weights = [module.weight for module in network.modules() if type(module) is nn.Conv2d]
        self._packs_convolutions = sum(weight.nbytes for weight in weights) <= _MOST_PACKED_BYTES
        self._packed: dict[nn.Module, tuple[torch.Size, Layer]] = {}

    def __call__(self, layer: nn.Module, features: torch.Tensor) -> torch.Tensor:
        """Apply a layer.

        Args:
            layer (`torch.nn.Module`): Of the network.
            features (`torch.Tensor`): What it takes, of its dtype.

        Returns:
            `torch.Tensor`: What it returns.
        """
        shape, packed = self._packed.get(layer, (None, layer))
        if shape != features.shape:
            packed = self._pack(layer, features.shape)
            self._packed[layer] = features.shape, packed
        return packed(features)

    def _pack(self, layer: Any, shape: torch.Size) -> Layer:
        kind = type(layer)
        if kind is nn.Conv2d and self._packs_convolutions and _is_worth_packing(layer.weight, shape):
            is_usual = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
            return _pack_convolution(layer, shape) if is_usual else layer
        if kind is nn.Linear and _is_worth_packing(layer.weight, shape):
            return _pack_linear(layer)
        if kind is GEGLU and type(layer.proj) is nn.Linear and _is_worth_packing(layer.proj.weight, shape):
            return _pack_geglu(layer.proj)
        return layer


def _is_worth_packing(weight: torch.Tensor, shape: torch.Size) -> bool:
    if weight.device.type != "cpu" or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    is_half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    # Each number of the input is multiplied with so many of the weights, unless it is a convolution that strides.
    num_multiplications = shape.numel() * weight[:, 0].numel()
    return (is_half or weight.dtype == torch.float32) and num_multiplications >= _FEWEST_MULTIPLICATIONS


def _pack_convolution(layer: nn.Conv2d, shape: torch.Size) -> Layer:
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    geometry = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
    # The best layout depends on the shape. If the computation wants another one, it is changed in every call, which
    # can take several times as long as from the plain one.
    pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    packed_weight = pack(weight.to_mkldnn(), *geometry, list(shape))

    def convolve(features_bchw: torch.Tensor) -> torch.Tensor:
        convolved: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            features_bchw, packed_weight, bias, *geometry, "none", [], ""
        )
        return convolved

    return convolve


def _pack_linear(layer: nn.Linear) -> Layer:
    # oneDNN takes these weights as they are: nothing is copied.
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()

    def project(features: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = torch.ops.mkldnn._linear_pointwise(features, weight, bias, "none", [], "")
        return projected

    return project


def _pack_geglu(projection: nn.Linear) -> Layer:
    """Compute a gated linear unit (Shazeer 2020, equation 6): (x W + b) * GELU(x V + c)."""
    weight, gate_weight = projection.weight.detach().chunk(2)
    bias, gate_bias = (None, None) if projection.bias is None else projection.bias.detach().chunk(2)

    def gate(features: torch.Tensor) -> torch.Tensor:
        gates = torch.ops.mkldnn._linear_pointwise(features, gate_weight, gate_bias, "gelu", [], "none")
        gated: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(features, gates, weight, bias, "mul")
        return gated

    return gate
