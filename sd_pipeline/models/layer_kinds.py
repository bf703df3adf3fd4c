"""Which layers of diffusers' and torch's the U-Net here has kinds of its own of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers.models.resnet import ResnetBlock2D as StockResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel as StockTransformer2DModel
from torch import nn

from sd_pipeline.models.pixelwise_convolution import PixelwiseConv2d, is_pixelwise
from sd_pipeline.models.resnet_block import ResnetBlock2D
from sd_pipeline.models.small_map_convolution import SmallMapConv2d, keeps_size
from sd_pipeline.models.transformer_2d import Transformer2DModel

_KINDS: tuple[tuple[type[nn.Module], type[nn.Module], Callable[[Any], bool]], ...] = (
    (StockResnetBlock2D, ResnetBlock2D, lambda layer: True),
    (StockTransformer2DModel, Transformer2DModel, lambda layer: True),
    (nn.Conv2d, PixelwiseConv2d, is_pixelwise),
    (nn.Conv2d, SmallMapConv2d, keeps_size),
)


def specialise_layers(network: nn.Module) -> None:
    """Turn layers into our kinds of them, in place: the same objects with the same weights.

    Subclasses of what is turned, such as layers with adapters, stay as they are.

    Args:
        network (`torch.nn.Module`): What contains them.
    """
    for module in network.modules():
        for stock, own, fits in _KINDS:
            if type(module) is stock and fits(module):
                module.__class__ = own
