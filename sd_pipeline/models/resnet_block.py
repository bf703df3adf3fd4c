"""The ResNet block of the U-Net: diffusers' layers, without the division by 1.0 at their end.

Shapes: b batch, c channels, h height, w width, t channels of the embedding of the timestep.
"""

from __future__ import annotations

import torch
from diffusers.models.resnet import ResnetBlock2D as StockResnetBlock2D

from sd_pipeline.models.packed_layers import RunLayer, call_layer

# torch's nearest upsampling of channels-last tensors fails on larger batches (issue 984 of diffusers).
LARGEST_CHANNELS_LAST_BATCH = 63


# Sharding (`_no_split_modules`, FSDP_TRANSFORMER_CLS_TO_WRAP) finds blocks by their class's name: it is diffusers'.
class ResnetBlock2D(StockResnetBlock2D):
    """Two normalised 3x3 convolutions around a skip connection (He et al. 2016), told of the timestep in between.

    With its weights and, to the bit, the outputs and gradients of diffusers' block. It is made out of that by
    `specialise_layers`, so it has no constructor of its own.
    """

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None) -> torch.Tensor:
        """Transform a feature map.

        Args:
            input_tensor (`torch.Tensor` of shape `(b, in_channels, h, w)`): Floating point.
            temb (`torch.Tensor` of shape `(b, t)`, *optional*):
                Embedding of the timestep, only left out where the block has no projection of it.

        Returns:
            `torch.Tensor` of shape `(b, out_channels, h, w)`; h and w are twice as large in a block that goes up, and
            half as large in one that goes down.

        Raises:
            ValueError: If the block scales by the embedding and there is none.
        """
        return self.transform(input_tensor, self.project_time(temb))

    def project_time(self, temb: torch.Tensor | None) -> torch.Tensor | None:
        """Work out what the block is told of the timestep.

        Args:
            temb (`torch.Tensor` of shape `(b, t)`, *optional*): Embedding of the timestep. Floating point.

        Returns:
            `torch.Tensor` of shape `(b, c, 1, 1)`: c is out_channels, or twice that for a scale and a shift. `None`
            where there is no embedding.
        """
        if self.time_emb_proj is None:
            return temb
        projected: torch.Tensor = self.time_emb_proj(temb if self.skip_time_act else self.nonlinearity(temb))
        return projected[:, :, None, None]

    def transform(
        self, input_tensor: torch.Tensor, time_projection: torch.Tensor | None, run: RunLayer = call_layer
    ) -> torch.Tensor:
        """Transform a feature map, with the timestep already projected.

        Args:
            input_tensor (`torch.Tensor` of shape `(b, in_channels, h, w)`): Floating point.
            time_projection (`torch.Tensor` of shape `(b, c, 1, 1)` or `(1, c, 1, 1)`, *optional*):
                Of `project_time`.
            run (`RunLayer`, *optional*): Applies convolutions, normalisations and activations.

        Returns:
            As `forward`.

        Raises:
            ValueError: If the block scales by the embedding and there is none.
        """
        hidden_bchw = self._resample(run(self.nonlinearity, run(self.norm1, input_tensor)))
        residual_bchw = self._resample(input_tensor)
        hidden_bchw = self._norm_with_time(run(self.conv1, hidden_bchw), time_projection, run)
        hidden_bchw = run(self.conv2, self.dropout(run(self.nonlinearity, hidden_bchw)))
        if self.conv_shortcut is not None:
            # Gradients of weights would have other strides than the weights themselves, which DDP warns about.
            residual_bchw = run(self.conv_shortcut, residual_bchw.contiguous() if self.training else residual_bchw)
        output_bchw = residual_bchw + hidden_bchw
        # x / 1.0 is x, but costs a kernel that reads and writes the whole feature map.
        return output_bchw if self.output_scale_factor == 1.0 else output_bchw / self.output_scale_factor

    def _resample(self, features_bchw: torch.Tensor) -> torch.Tensor:
        if self.upsample is not None:
            is_large = features_bchw.shape[0] > LARGEST_CHANNELS_LAST_BATCH
            return self.upsample(features_bchw.contiguous() if is_large else features_bchw)
        return features_bchw if self.downsample is None else self.downsample(features_bchw)

    def _norm_with_time(
        self, hidden_bchw: torch.Tensor, time_projection: torch.Tensor | None, run: RunLayer
    ) -> torch.Tensor:
        """Normalise, with the timestep as a shift before it, or as a scale and a shift after it."""
        if self.time_embedding_norm != "scale_shift":
            return run(self.norm2, hidden_bchw if time_projection is None else hidden_bchw + time_projection)
        if time_projection is None:
            raise ValueError("temb must be given where time_embedding_norm is 'scale_shift'")
        scale_bc11, shift_bc11 = time_projection.chunk(2, dim=1)
        return run(self.norm2, hidden_bchw) * (1 + scale_bc11) + shift_bc11
