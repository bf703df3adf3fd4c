"""3x3 convolutions of small feature maps, the gradient of whose weights is one matrix product.

Shapes: b batch, c channels, h height, w width, o channels of the output, p pixels of all samples.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

# From 8x8 on, oneDNN's own way is as fast.
_MOST_PIXELS_OF_A_SAMPLE = 49


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution that keeps height and width: `torch.nn.Conv2d`, to the bit, but under autocast on a CPU.

    There, on maps of up to 7x7 pixels, forward and backward pass together take half to nine tenths of the time.
    Gradients of weights differ by the rounding of autocast's dtype. It is made by `specialise_layers`, so it has no
    constructor of its own.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve.

        Args:
            input (`torch.Tensor` of shape `(b, c, h, w)`): Floating point.

        Returns:
            `torch.Tensor` of shape `(b, o, h, w)`.
        """
        is_small = input.ndim == 4 and input.shape[2] * input.shape[3] <= _MOST_PIXELS_OF_A_SAMPLE
        is_cast = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if self.bias is None or not (is_small and is_cast and torch.is_grad_enabled()):
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu")
        output: torch.Tensor = _Convolution.apply(input.to(dtype), self.weight.to(dtype), self.bias.to(dtype))
        return output


class _Convolution(torch.autograd.Function):
    """A convolution whose weights have their gradient from patches of the input."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        return F.conv2d(input, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        input, weight = ctx.saved_tensors
        of_input = None
        if ctx.needs_input_grad[0]:
            geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            mask = [True, False, False]
            of_input = torch.ops.aten.convolution_backward(gradient, input, weight, None, *geometry, mask)[0]
        gradient_po = gradient.permute(0, 2, 3, 1).flatten(0, 2)
        of_weight = gradient_po.T @ patches(input)
        # In the layout of the weights, or DDP would warn.
        of_weight = of_weight.view(len(weight), 3, 3, -1).permute(0, 3, 1, 2).contiguous()
        return of_input, of_weight, gradient_po.sum(0)


def patches(features_bchw: torch.Tensor) -> torch.Tensor:
    """Lay out the 3x3 neighbourhood of each pixel, with zeros beyond the edges.

    Args:
        features_bchw (`torch.Tensor` of shape `(b, c, h, w)`): Any dtype.

    Returns:
        `torch.Tensor` of shape `(p, 9 * c)`: The neighbours row by row, each with all its channels.
    """
    batch_size, channels, height, width = features_bchw.shape
    padded_bhwc = features_bchw.new_zeros(batch_size, height + 2, width + 2, channels)
    padded_bhwc[:, 1:-1, 1:-1] = features_bchw.permute(0, 2, 3, 1)
    # Three neighbours in a row are one piece of memory.
    of_sample, of_row, of_pixel, _ = padded_bhwc.stride()
    size, stride = (batch_size, height, width, 3, 3 * channels), (of_sample, of_row, of_pixel, of_row, 1)
    return padded_bhwc.as_strided(size, stride).reshape(batch_size * height * width, 9 * channels)


def keeps_size(layer: nn.Conv2d) -> bool:
    """Tell whether a convolution is 3x3 and leaves height and width as they are.

    Args:
        layer (`torch.nn.Conv2d`): Any.
    """
    geometry = (*layer.kernel_size, *layer.stride, *layer.dilation, layer.groups, *layer.padding, layer.padding_mode)
    return geometry == (3, 3, 1, 1, 1, 1, 1, 1, 1, "zeros")
