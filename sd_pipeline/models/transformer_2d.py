"""The transformer of the U-Net: diffusers' layers, with less copying around them where that costs time.

Shapes: b batch, c channels, h height, w width, l pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_2d import Transformer2DModel as StockTransformer2DModel

from sd_pipeline.models.pixelwise_convolution import PixelwiseConv2d


class Transformer2DModel(StockTransformer2DModel):
    """Transformer blocks on the pixels of a feature map, between two 1x1 convolutions, around a skip connection.

    With the weights and, to the bit, the outputs of diffusers' class, but under autocast on a CPU: there pixels become
    a sequence before the first convolution, and a feature map again after the last one, where diffusers' class goes to
    and fro. Results differ by the rounding of autocast's dtype. It is made by `specialise_layers`, so it has no
    constructor of its own.
    """

    def _operate_on_continuous_inputs(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, int]:
        if not self._keeps_sequences(hidden_states):
            started: tuple[torch.Tensor, int] = super()._operate_on_continuous_inputs(hidden_states)
            return started
        normed_blc = self.norm(hidden_states).flatten(2).transpose(1, 2)
        return _project(self.proj_in, normed_blc), self.proj_in.out_channels

    def _get_output_for_continuous_inputs(
        self,
        hidden_states: torch.Tensor,
        residual: torch.Tensor,
        batch_size: int,
        height: int,
        width: int,
        inner_dim: int,
    ) -> torch.Tensor:
        if not self._keeps_sequences(hidden_states):
            ended: torch.Tensor = super()._get_output_for_continuous_inputs(
                hidden_states, residual, batch_size, height, width, inner_dim
            )
            return ended
        projected_blc = _project(self.proj_out, hidden_states)
        # The first of the two decides that channels come first in memory.
        return residual + projected_blc.transpose(1, 2).unflatten(2, (height, width))

    def _keeps_sequences(self, features: torch.Tensor) -> bool:
        is_cast = features.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        return is_cast and all(type(layer) is PixelwiseConv2d for layer in (self.proj_in, self.proj_out))


def _project(layer: PixelwiseConv2d, states_blc: torch.Tensor) -> torch.Tensor:
    return F.linear(states_blc, layer.weight.flatten(1), layer.bias)
