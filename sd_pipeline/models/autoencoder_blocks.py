"""The layers of the autoencoder, in the order data flows: ResNet block, attention, down, mid, up, encoder, decoder.

Attributes are named so that state-dict keys equal those of diffusers' `AutoencoderKL`. Shapes: b batch, c channels,
h height, w width, l = h * w.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from sd_pipeline.models.attention import scaled_dot_product_attention

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}
NORM_EPS = 1e-6


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions around a skip connection (He et al. 2016, pre-activation).

    Args:
        in_channels (`int`): Channels of the input, divisible by `norm_num_groups`.
        out_channels (`int`): Channels of the output, divisible by `norm_num_groups`.
        norm_num_groups (`int`): Groups of the group normalisation.
        act_fn (`str`): A key of `ACTIVATIONS`.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_num_groups: int, act_fn: str) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_num_groups, in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(norm_num_groups, out_channels, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.nonlinearity = ACTIVATIONS[act_fn]()
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(b, in_channels, h, w)` to `(b, out_channels, h, w)`."""
        residual = hidden_states
        hidden_states = self.conv1(self.nonlinearity(self.norm1(hidden_states)))
        hidden_states = self.conv2(self.nonlinearity(self.norm2(hidden_states)))
        if self.conv_shortcut is not None:
            residual = self.conv_shortcut(residual)
        return residual + hidden_states


class SelfAttention(nn.Module):
    """Self-attention over all pixels with one head, around a skip connection.

    Args:
        channels (`int`): Channels of input and output, divisible by `norm_num_groups`.
        norm_num_groups (`int`): Groups of the group normalisation.
    """

    # Checkpoints of 2022 call the projections query, key, value and proj_attn; `from_pretrained` renames them in
    # modules that carry this mark.
    _from_deprecated_attn_block = True

    def __init__(self, channels: int, norm_num_groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(norm_num_groups, channels, eps=NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(b, c, h, w)` to the same shape."""
        normed_blc = self.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        query_b1lc, key_b1lc, value_b1lc = (
            project(normed_blc).unsqueeze(1) for project in (self.to_q, self.to_k, self.to_v)
        )
        attended_blc = scaled_dot_product_attention(query_b1lc, key_b1lc, value_b1lc).squeeze(1)
        update_bcl = self.to_out[0](attended_blc).transpose(1, 2)
        return update_bcl.reshape(hidden_states.shape) + hidden_states


class Downsample(nn.Module):
    """Halve height and width with a strided convolution, padded on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(b, c, h, w)` to `(b, c, h // 2, w // 2)`."""
        return self.conv(F.pad(hidden_states, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(b, c, h, w)` to `(b, c, 2 * h, 2 * w)`."""
        return self.conv(F.interpolate(hidden_states, scale_factor=2.0, mode="nearest"))


def _resnets(num_layers: int, in_channels: int, out_channels: int, norm_num_groups: int, act_fn: str) -> nn.ModuleList:
    widths = [in_channels] + [out_channels] * num_layers
    return nn.ModuleList(
        ResnetBlock(width_in, width_out, norm_num_groups, act_fn) for width_in, width_out in pairwise(widths)
    )


class DownEncoderBlock(nn.Module):
    """One resolution of the encoder: ResNet blocks, then a halving of the resolution unless it is the last."""

    def __init__(
        self, num_layers: int, in_channels: int, out_channels: int, norm_num_groups: int, act_fn: str, is_last: bool
    ) -> None:
        super().__init__()
        self.resnets = _resnets(num_layers, in_channels, out_channels, norm_num_groups, act_fn)
        self.downsamplers = nn.ModuleList([] if is_last else [Downsample(out_channels)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(b, in_channels, h, w)` to `(b, out_channels, h // 2, w // 2)`, or keep h, w in the last block."""
        for layer in (*self.resnets, *self.downsamplers):
            hidden_states = layer(hidden_states)
        return hidden_states


class MidBlock(nn.Module):
    """The lowest resolution: ResNet block, self-attention if wanted, ResNet block."""

    def __init__(self, channels: int, norm_num_groups: int, act_fn: str, add_attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([SelfAttention(channels, norm_num_groups)] if add_attention else [])
        self.resnets = _resnets(2, channels, channels, norm_num_groups, act_fn)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(b, c, h, w)` to the same shape."""
        for layer in (self.resnets[0], *self.attentions, self.resnets[1]):
            hidden_states = layer(hidden_states)
        return hidden_states


class UpDecoderBlock(nn.Module):
    """One resolution of the decoder: ResNet blocks, then a doubling of the resolution unless it is the last."""

    def __init__(
        self, num_layers: int, in_channels: int, out_channels: int, norm_num_groups: int, act_fn: str, is_last: bool
    ) -> None:
        super().__init__()
        self.resnets = _resnets(num_layers, in_channels, out_channels, norm_num_groups, act_fn)
        self.upsamplers = nn.ModuleList([] if is_last else [Upsample(out_channels)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(b, in_channels, h, w)` to `(b, out_channels, 2 * h, 2 * w)`, or keep h, w in the last block."""
        for layer in (*self.resnets, *self.upsamplers):
            hidden_states = layer(hidden_states)
        return hidden_states


class _Checkpointed(nn.Module):
    """A network that can recompute its blocks in the backward pass instead of keeping their activations."""

    _gradient_checkpointing_func: Callable[..., torch.Tensor]  # set by `ModelMixin.enable_gradient_checkpointing`

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    def _run(self, block: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, hidden_states)
        return block(hidden_states)


class Encoder(_Checkpointed):
    """From pixels to the moments of the posterior.

    Args:
        in_channels (`int`): Channels of an image.
        out_channels (`int`): Channels of the moments: twice those of the latents.
        block_out_channels (sequence of `int`): Width of each resolution, the finest first.
        layers_per_block (`int`): ResNet blocks a resolution.
        norm_num_groups (`int`): Groups of the group normalisation; divides each width.
        act_fn (`str`): A key of `ACTIVATIONS`.
        mid_block_add_attention (`bool`): Whether the lowest resolution has self-attention.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        block_out_channels: Sequence[int],
        layers_per_block: int,
        norm_num_groups: int,
        act_fn: str,
        mid_block_add_attention: bool,
    ) -> None:
        super().__init__()
        first, last = block_out_channels[0], block_out_channels[-1]
        self.conv_in = nn.Conv2d(in_channels, first, kernel_size=3, padding=1)
        last_index = len(block_out_channels) - 1
        self.down_blocks = nn.ModuleList(
            DownEncoderBlock(layers_per_block, width_in, width_out, norm_num_groups, act_fn, is_last=i == last_index)
            for i, (width_in, width_out) in enumerate(pairwise([first, *block_out_channels]))
        )
        self.mid_block = MidBlock(last, norm_num_groups, act_fn, mid_block_add_attention)
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, last, eps=NORM_EPS)
        self.conv_out = nn.Conv2d(last, out_channels, kernel_size=3, padding=1)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """Map `(b, in_channels, h, w)` in [-1, 1] to `(b, out_channels, h / f, w / f)`, f = 2^(blocks - 1)."""
        hidden_states = self.conv_in(sample)
        for block in (*self.down_blocks, self.mid_block):
            hidden_states = self._run(block, hidden_states)
        # The output activation is SiLU whatever `act_fn` says, as in diffusers.
        return self.conv_out(F.silu(self.conv_norm_out(hidden_states)))


class Decoder(_Checkpointed):
    """From latents to pixels, the mirror image of the encoder with one more ResNet block a resolution.

    Args:
        in_channels (`int`): Channels of the latents.
        out_channels (`int`): Channels of an image.
        block_out_channels (sequence of `int`): Width of each resolution, the finest first.
        layers_per_block (`int`): ResNet blocks a resolution of the encoder.
        norm_num_groups (`int`): Groups of the group normalisation; divides each width.
        act_fn (`str`): A key of `ACTIVATIONS`.
        mid_block_add_attention (`bool`): Whether the lowest resolution has self-attention.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        block_out_channels: Sequence[int],
        layers_per_block: int,
        norm_num_groups: int,
        act_fn: str,
        mid_block_add_attention: bool,
    ) -> None:
        super().__init__()
        widths = list(reversed(block_out_channels))
        self.conv_in = nn.Conv2d(in_channels, widths[0], kernel_size=3, padding=1)
        self.mid_block = MidBlock(widths[0], norm_num_groups, act_fn, mid_block_add_attention)
        num_layers, last_index = layers_per_block + 1, len(widths) - 1
        self.up_blocks = nn.ModuleList(
            UpDecoderBlock(num_layers, width_in, width_out, norm_num_groups, act_fn, is_last=i == last_index)
            for i, (width_in, width_out) in enumerate(pairwise([widths[0], *widths]))
        )
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """Map latents `(b, in_channels, h, w)` to `(b, out_channels, f * h, f * w)`, f = 2^(blocks - 1)."""
        hidden_states = self.conv_in(sample)
        for block in (self.mid_block, *self.up_blocks):
            hidden_states = self._run(block, hidden_states)
        return self.conv_out(F.silu(self.conv_norm_out(hidden_states)))
