"""The U-Net as it is asked many times about one batch: what stays the same is computed once.

The forward pass of Stable Diffusion's U-Net, written out over diffusers' own layers in the order data flows. In a run
of the denoising loop the text stays the same, so keys and values of every cross-attention do; the timesteps are known,
so what every ResNet block is told of them is; and the halves of a batch with guidance, which differ in their texts
alone, share everything up to the first cross-attention. `UNet2DConditionModel.forward` gives the same up to rounding.

Shapes: b batch, c channels, h height, w width; l queries, s keys and values of n heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D

from sd_pipeline.models.attention import scaled_dot_product_attention
from sd_pipeline.models.packed_layers import PackedLayers, RunLayer, call_layer
from sd_pipeline.models.resnet_block import LARGEST_CHANNELS_LAST_BATCH, ResnetBlock2D
from sd_pipeline.models.transformer_2d import Transformer2DModel
from sd_pipeline.models.unet_2d_condition import SDUNet2DConditionModel

KeysAndValues = tuple[torch.Tensor, torch.Tensor]


class PreparedUNet:
    """A U-Net for one batch of texts and the timesteps of one run. Changes of its weights have no effect on it.

    Args:
        unet ([`SDUNet2DConditionModel`]): One of which `can_be_prepared` is true.
        timesteps (`torch.Tensor` of shape `(num_timesteps,)`): On any device. Integers or floating point.
        encoder_hidden_states (`torch.Tensor` of shape `(copies * b, length, cross_attention_dim)`, *optional*):
            Embeddings of the texts, of the U-Net's device and dtype; with guidance, those of the negative prompts
            first. `None` where no block attends to any.
        run (`RunLayer`, *optional*): Applies convolutions, linear layers, normalisations and activations; by default
            `PackedLayers`. Has no effect on a pass that is compiled.
    """

    def __init__(
        self,
        unet: SDUNet2DConditionModel,
        timesteps: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None,
        run: RunLayer | None = None,
    ) -> None:
        self._unet, self._run = unet, run or PackedLayers(unet)
        self._num_texts = 0 if encoder_hidden_states is None else len(encoder_hidden_states)
        self._time_projections = project_timesteps(unet, timesteps)
        self._keys_and_values: list[KeysAndValues] = []
        if encoder_hidden_states is not None:
            self._keys_and_values = project_texts(unet, encoder_hidden_states, self._run)

    def fits(self, sample: torch.Tensor) -> bool:
        """Tell whether latents are of the U-Net's device and dtype, and have one text or several each.

        Args:
            sample (`torch.Tensor` of shape `(b, in_channels, h, w)`): Latents.

        Returns:
            `bool`: Whether they are what a call takes.
        """
        weight = self._unet.conv_in.weight
        is_like_weights = sample.dtype == weight.dtype and sample.device == weight.device
        return is_like_weights and len(sample) > 0 and self._num_texts % len(sample) == 0

    def __call__(self, sample: torch.Tensor, step: int) -> torch.Tensor:
        """Predict.

        Args:
            sample (`torch.Tensor` of shape `(b, in_channels, h, w)`): Latents, of the U-Net's device and dtype. Any
                height and width.
            step (`int`): Which of the timesteps.

        Returns:
            `torch.Tensor` of shape `(copies * b, out_channels, h, w)`; just b where no block attends to a text.
        """
        time_projections = [projections[step : step + 1] for projections in self._time_projections]
        arguments = (self._unet, sample, time_projections, self._keys_and_values)
        if self._unet.compiled_forward is None:
            return forward(*arguments, self._run)
        torch.compiler.cudagraph_mark_step_begin()
        # A CUDA graph writes its next result over this one, which some schedulers keep.
        return self._unet.compiled_forward(*arguments).clone()


def project_timesteps(unet: SDUNet2DConditionModel, timesteps: torch.Tensor) -> list[torch.Tensor]:
    """Work out what all ResNet blocks are told of all timesteps.

    Args:
        unet ([`SDUNet2DConditionModel`]): The layers.
        timesteps (`torch.Tensor` of shape `(num_timesteps,)`): Integers or floating point.

    Returns:
        For each block, in the order data flows, a `torch.Tensor` of shape `(num_timesteps, channels, 1, 1)`.
    """
    sinusoids = unet.time_proj(timesteps.to(unet.conv_in.weight.device)).to(unet.conv_in.weight.dtype)
    embeddings = unet.time_embedding(sinusoids)
    return [resnet.project_time(embeddings) for block in _blocks(unet) for resnet in block.resnets]


def project_texts(
    unet: SDUNet2DConditionModel, encoder_hidden_states: torch.Tensor, run: RunLayer = call_layer
) -> list[KeysAndValues]:
    """Work out the keys and values of all cross-attentions.

    Args:
        unet ([`SDUNet2DConditionModel`]): The layers.
        encoder_hidden_states (`torch.Tensor` of shape `(batch_size, length, cross_attention_dim)`): Of the U-Net's
            device and dtype.
        run (`RunLayer`, *optional*): Applies linear layers.

    Returns:
        For each, in the order data flows, two `torch.Tensor` of shape `(batch_size, num_heads, length, head_dim)`.
    """
    return [
        _project_keys_and_values(layer.attn2, encoder_hidden_states, run)
        for block in _blocks(unet)
        for transformer in getattr(block, "attentions", ())
        for layer in transformer.transformer_blocks
    ]


def forward(
    unet: Any,
    sample: torch.Tensor,
    time_projections: list[torch.Tensor],
    keys_and_values: list[KeysAndValues],
    run: RunLayer = call_layer,
) -> torch.Tensor:
    """Compute the network's output: a pure function of tensors and weights.

    Args:
        unet ([`SDUNet2DConditionModel`]): The layers.
        sample (`torch.Tensor` of shape `(b, in_channels, h, w)`): Latents.
        time_projections (list of `torch.Tensor` of shape `(1, c, 1, 1)`): One for each ResNet block.
        keys_and_values (list of pairs of `torch.Tensor` of shape `(copies * b, n, s, c / n)`): One pair for each
            cross-attention.
        run (`RunLayer`, *optional*): Applies layers.

    Returns:
        `torch.Tensor` of shape `(copies * b, out_channels, h, w)`.
    """
    times, texts = iter(time_projections), iter(keys_and_values)
    hidden_bchw = run(unet.conv_in, sample)
    skips = [hidden_bchw]
    for block in unet.down_blocks:
        for resnet, transformer in _layers(block):
            hidden_bchw = resnet.transform(hidden_bchw, next(times), run)
            hidden_bchw = hidden_bchw if transformer is None else _transform(transformer, hidden_bchw, texts, run)
            skips.append(hidden_bchw)
        for downsampler in block.downsamplers or ():
            hidden_bchw = _downsample(downsampler, hidden_bchw, run)
            skips.append(hidden_bchw)
    if unet.mid_block is not None:
        hidden_bchw = unet.mid_block.resnets[0].transform(hidden_bchw, next(times), run)
        for transformer, resnet in zip(unet.mid_block.attentions, unet.mid_block.resnets[1:], strict=True):
            hidden_bchw = _transform(transformer, hidden_bchw, texts, run)
            hidden_bchw = resnet.transform(hidden_bchw, next(times), run)
    for block in unet.up_blocks:
        for resnet, transformer in _layers(block):
            hidden_bchw = torch.cat([hidden_bchw, _repeat_like(hidden_bchw, skips.pop())], dim=1)
            hidden_bchw = resnet.transform(hidden_bchw, next(times), run)
            hidden_bchw = hidden_bchw if transformer is None else _transform(transformer, hidden_bchw, texts, run)
        for upsampler in block.upsamplers or ():
            # To the size of the next skip, which is not the double one where an odd size was halved.
            hidden_bchw = _upsample(upsampler, hidden_bchw, skips[-1].shape[-2:], run)
    return run(unet.conv_out, run(unet.conv_act, run(unet.conv_norm_out, hidden_bchw)))


def _blocks(unet: Any) -> Iterator[Any]:
    yield from unet.down_blocks
    if unet.mid_block is not None:
        yield unet.mid_block
    yield from unet.up_blocks


def _layers(block: Any) -> Iterator[tuple[ResnetBlock2D, Transformer2DModel | None]]:
    """Go through the ResNet blocks of one resolution, with the transformers after them."""
    transformers = getattr(block, "attentions", [None] * len(block.resnets))
    return zip(block.resnets, transformers, strict=True)


def _transform(
    transformer: Transformer2DModel, features_bchw: torch.Tensor, texts: Iterator[KeysAndValues], run: RunLayer
) -> torch.Tensor:
    """Apply transformer blocks to a feature map as a sequence of pixels, around a skip connection."""
    height, width = features_bchw.shape[-2:]
    hidden_bchw = run(transformer.norm, features_bchw)
    if transformer.use_linear_projection:
        hidden_blc = run(transformer.proj_in, _to_sequence(hidden_bchw))
    else:
        hidden_blc = _to_sequence(run(transformer.proj_in, hidden_bchw))
    for block in transformer.transformer_blocks:
        hidden_blc = _transform_sequence(block, hidden_blc, next(texts), run)
    if transformer.use_linear_projection:
        hidden_bchw = _to_feature_map(run(transformer.proj_out, hidden_blc), height, width)
    else:
        hidden_bchw = run(transformer.proj_out, _to_feature_map(hidden_blc, height, width))
    # Here and below, what a layer has just returned is nobody else's, and its memory is near.
    return hidden_bchw.add_(_repeat_like(hidden_bchw, features_bchw))


def _transform_sequence(block: Any, hidden_blc: torch.Tensor, text: KeysAndValues, run: RunLayer) -> torch.Tensor:
    """Self-attention, cross-attention and a gated feed-forward network, each normalised and around a skip connection.

    The batch becomes that of the text at the cross-attention.
    """
    normed_blc = run(block.norm1, hidden_blc)
    pixels = _project_keys_and_values(block.attn1, normed_blc, run)
    hidden_blc = _attend(block.attn1, run(block.attn1.to_q, normed_blc), pixels, run).add_(hidden_blc)

    query_blc = _repeat_like(text[0], run(block.attn2.to_q, run(block.norm2, hidden_blc)))
    attended_blc = _attend(block.attn2, query_blc, text, run)
    hidden_blc = attended_blc.add_(_repeat_like(attended_blc, hidden_blc))

    inner_blc = run(block.ff.net[0], run(block.norm3, hidden_blc))
    return run(block.ff.net[2], inner_blc).add_(hidden_blc)


def _project_keys_and_values(attention: Attention, states_bsc: torch.Tensor, run: RunLayer) -> KeysAndValues:
    return (
        _split_heads(run(attention.to_k, states_bsc), attention.heads),
        _split_heads(run(attention.to_v, states_bsc), attention.heads),
    )


def _attend(
    attention: Attention, query_blc: torch.Tensor, keys_and_values: KeysAndValues, run: RunLayer
) -> torch.Tensor:
    attended_bnlh = scaled_dot_product_attention(_split_heads(query_blc, attention.heads), *keys_and_values)
    return run(attention.to_out[0], attended_bnlh.transpose(1, 2).flatten(2))


def _split_heads(states_blc: torch.Tensor, num_heads: int) -> torch.Tensor:
    return states_blc.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _to_sequence(features_bchw: torch.Tensor) -> torch.Tensor:
    return features_bchw.permute(0, 2, 3, 1).flatten(1, 2)


def _to_feature_map(states_blc: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return states_blc.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _downsample(downsampler: Downsample2D, features_bchw: torch.Tensor, run: RunLayer) -> torch.Tensor:
    """Halve height and width with a strided convolution."""
    if downsampler.padding == 0:
        features_bchw = F.pad(features_bchw, (0, 1, 0, 1))
    return run(downsampler.conv, features_bchw)


def _upsample(upsampler: Any, features_bchw: torch.Tensor, size: torch.Size, run: RunLayer) -> torch.Tensor:
    """Enlarge to a height and width: nearest neighbour, then a convolution."""
    if features_bchw.shape[0] > LARGEST_CHANNELS_LAST_BATCH:
        features_bchw = features_bchw.contiguous()
    return run(upsampler.conv, F.interpolate(features_bchw, size=size, mode="nearest"))


def _repeat_like(example: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """Give what the parts of a batch share to each of them, if they have parted already."""
    copies = example.shape[0] // shared.shape[0]
    # Unlike `repeat`, this keeps the layout of the memory.
    return shared if copies == 1 else torch.cat([shared] * copies)
