"""Convolutions of single pixels, 1x1, which are matrix products.

Shapes: b batch, c channels, h height, w width, o channels of the output.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# Of fewer pixels, the matrices of single samples are too small to be multiplied one by one.
_FEWEST_PIXELS_OF_A_SAMPLE = 128


class PixelwiseConv2d(nn.Conv2d):
    """A 1x1 convolution: `torch.nn.Conv2d`, to the bit, but under autocast on a CPU.

    There forward and backward pass are written as matrix products, which take half to nine tenths of the time. Results
    differ by the rounding of autocast's dtype. It is made by `specialise_layers`, so it has no constructor of its own.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply each pixel's channels with the weights.

        Args:
            input (`torch.Tensor` of shape `(b, c, h, w)`): Floating point.

        Returns:
            `torch.Tensor` of shape `(b, o, h, w)`.
        """
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or input.ndim != 4:
            return super().forward(input)
        weight_oc, (height, width) = self.weight.flatten(1), input.shape[2:]
        if self.bias is None or height * width < _FEWEST_PIXELS_OF_A_SAMPLE:
            output_bhwo = F.linear(input.permute(0, 2, 3, 1), weight_oc, self.bias)
            # Channels that come last would spread to all that follows, where group normalisation is slow on them.
            return output_bhwo.permute(0, 3, 1, 2).contiguous()
        weight_boc, bias_1o1 = weight_oc.expand(len(input), -1, -1), self.bias[None, :, None]
        return torch.baddbmm(bias_1o1, weight_boc, input.flatten(2)).unflatten(2, (height, width))


def is_pixelwise(layer: nn.Conv2d) -> bool:
    """Tell whether a convolution looks at single pixels, and at each once.

    Args:
        layer (`torch.nn.Conv2d`): Any.
    """
    return (*layer.kernel_size, *layer.stride, layer.groups, *layer.padding) == (1, 1, 1, 1, 1, 0, 0)
