"""The layers of a U-Net as a CPU computes them fastest.

oneDNN, the library behind convolutions, wants weights in a layout of its own. `torch.nn.functional.conv2d` brings them
into it in every call, which takes as long as the convolution itself where feature maps are small; linear layers do not
reach oneDNN at all in float32, but MKL, which runs at half its speed on processors that are not Intel's; and what is
done to each number of a result can be done while it is still in a register. The operations used here are those that
`torch.compile` writes into its programs.

What oneDNN's convolutions return has its channels last: there a feature map is a sequence of pixels, and a convolution
of single pixels is a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import nn

from sd_pipeline.models.channels_last_norm import channels_last_group_norm
from sd_pipeline.models.pixelwise_convolution import PixelwiseConv2d, is_pixelwise
from sd_pipeline.models.small_map_convolution import SmallMapConv2d

Layer = Callable[[torch.Tensor], torch.Tensor]

RunLayer = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""Called with a layer and its input; returns what the layer makes of it."""

# A packed copy lives beside the weights. Models of gigabytes are large enough that packing is a small part of their
# convolutions, and small enough that somebody has just the memory for them.
_MOST_PACKED_BYTES = 2**30
# With fewer multiplications the way to oneDNN takes longer than it saves: 16 microseconds where MKL needs 11 for 128
# rows of 64 channels to 64, but 33 where it needs 48 to 512.
_FEWEST_MULTIPLICATIONS = 2**21
# Of a linear layer on a processor of Intel's: 78 microseconds where MKL needs 58; as many for eight times the rows.
_FEWEST_MULTIPLICATIONS_BESIDE_FAST_MKL = 2**24
# `channels_last_group_norm` starts a dozen kernels: it gains on large maps, where groups are narrower than registers.
_FEWEST_NORMALISED, _CHANNELS_OF_A_WIDE_GROUP = 2**17, 8


def call_layer(layer: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Apply a layer as it is: the plain `RunLayer`."""
    output: torch.Tensor = layer(features)
    return output


class PackedLayers:
    """A `RunLayer` that keeps copies of weights in the layout in which a CPU computes.

    Its results differ from those of the layers by rounding. A copy is made when its layer is first applied, or is
    applied to another shape than before, and does not follow what happens to the weights later. Layers that are no
    plain `torch.nn.Conv2d`, `torch.nn.Linear`, `torch.nn.GroupNorm` or gated linear unit (such as those with an
    adapter around them), or are not on a CPU, are called as they are. SiLU writes over its input: that is what a
    normalisation has just returned.

    Args:
        network (`torch.nn.Module`): Whose layers are applied, without gradients.

    Attributes:
        most_bytes (`int`): What the copies can take.
    """

    def __init__(self, network: nn.Module) -> None:
        # Those of 1x1 convolutions stay as they are.
        convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        weights = [layer.weight for layer in convolutions if type(layer) is not PixelwiseConv2d]
        num_bytes = sum(weight.nbytes for weight in weights)
        self._packs_convolutions = num_bytes <= _MOST_PACKED_BYTES
        self.most_bytes = num_bytes if self._packs_convolutions else 0
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
        if kind in (nn.Conv2d, PixelwiseConv2d, SmallMapConv2d) and _is_plain(layer) and _is_packable(layer.weight):
            if is_pixelwise(layer):
                return _pack_pixelwise_convolution(layer, shape)
            if self._packs_convolutions and _num_multiplications(layer.weight, shape) >= _FEWEST_MULTIPLICATIONS:
                return _pack_convolution(layer, shape)
        if kind is nn.Linear and _is_linear_packable(layer.weight, shape):
            return _pack_linear(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
        if kind is GEGLU and type(layer.proj) is nn.Linear and _is_linear_packable(layer.proj.weight, shape):
            return _pack_geglu(layer.proj)
        if kind is nn.GroupNorm and _has_narrow_groups(layer, shape):
            return partial(_normalise, layer)
        return _without_module(layer)


def _without_module(layer: Any) -> Layer:
    """Leave out what `torch.nn.Module` does around a function, which takes as long as it does where it is small."""
    kind = type(layer)
    if kind is nn.Linear:
        return partial(F.linear, weight=layer.weight, bias=layer.bias)
    if kind is nn.LayerNorm:
        shape, weights = layer.normalized_shape, {"weight": layer.weight, "bias": layer.bias}
        return partial(F.layer_norm, normalized_shape=shape, **weights, eps=layer.eps)
    if kind is nn.GroupNorm:
        return partial(F.group_norm, num_groups=layer.num_groups, weight=layer.weight, bias=layer.bias, eps=layer.eps)
    return partial(F.silu, inplace=True) if kind is nn.SiLU else layer


def _is_packable(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu" or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    is_half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return is_half or weight.dtype == torch.float32


def _num_multiplications(weight: torch.Tensor, shape: torch.Size) -> int:
    """Count how often a weight and a number of the input are multiplied; a convolution that strides does less."""
    return shape.numel() * weight[:, 0].numel()


def _is_linear_packable(weight: torch.Tensor, shape: torch.Size) -> bool:
    is_rivalled = weight.dtype == torch.float32 and _is_mkl_fast()
    fewest = _FEWEST_MULTIPLICATIONS_BESIDE_FAST_MKL if is_rivalled else _FEWEST_MULTIPLICATIONS
    return _is_packable(weight) and _num_multiplications(weight, shape) >= fewest


@cache
def _is_mkl_fast() -> bool:
    """Tell whether MKL takes its fast paths: on Intel's processors alone."""
    try:
        processors = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # Not Linux.
        return False
    return torch.backends.mkl.is_available() and "GenuineIntel" in processors


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _has_narrow_groups(layer: nn.GroupNorm, shape: torch.Size) -> bool:
    weight: torch.Tensor | None = layer.weight
    if weight is None or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return False
    is_narrow = layer.num_channels < _CHANNELS_OF_A_WIDE_GROUP * layer.num_groups
    return is_narrow and shape.numel() >= _FEWEST_NORMALISED


def _normalise(layer: nn.GroupNorm, features_bchw: torch.Tensor) -> torch.Tensor:
    return layer(features_bchw) if features_bchw.is_contiguous() else channels_last_group_norm(layer, features_bchw)


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


def _pack_pixelwise_convolution(layer: nn.Conv2d, shape: torch.Size) -> Layer:
    """Compute a 1x1 convolution as a linear layer, on rows that are pixels."""
    weight, bias = layer.weight.detach().flatten(1), None if layer.bias is None else layer.bias.detach()
    project = (
        _pack_linear(weight, bias)
        if _is_linear_packable(weight, shape)
        else partial(F.linear, weight=weight, bias=bias)
    )

    def convolve(features_bchw: torch.Tensor) -> torch.Tensor:
        batch_size, _, height, width = features_bchw.shape
        projected = project(features_bchw.permute(0, 2, 3, 1).flatten(0, 2))
        return projected.view(batch_size, height, width, len(weight)).permute(0, 3, 1, 2)

    return convolve


def _pack_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Layer:
    # oneDNN takes these weights as they are: nothing is copied.
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
