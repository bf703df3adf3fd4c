"""Whether a U-Net is one that `PreparedUNet` computes, and nobody has changed what its forward pass does."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets import unet_2d_blocks
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from sd_pipeline.models.pixelwise_convolution import PixelwiseConv2d
from sd_pipeline.models.resnet_block import ResnetBlock2D
from sd_pipeline.models.small_map_convolution import SmallMapConv2d
from sd_pipeline.models.transformer_2d import Transformer2DModel
from sd_pipeline.models.unet_2d_condition import SDAttnProcessor, SDUNet2DConditionModel

_BLOCKS: dict[str, set[str | None]] = {
    "down_block_types": {"DownBlock2D", "CrossAttnDownBlock2D"},
    "mid_block_type": {None, "UNetMidBlock2DCrossAttn"},
    "up_block_types": {"UpBlock2D", "CrossAttnUpBlock2D"},
}
# What the layers themselves follow. Every other key says that the network has something more than Stable Diffusion's.
_KEYS_OF_LAYERS = {
    "sample_size",
    "in_channels",
    "out_channels",
    "flip_sin_to_cos",
    "freq_shift",
    "block_out_channels",
    "layers_per_block",
    "downsample_padding",
    "mid_block_scale_factor",
    "dropout",
    "act_fn",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
    "attention_head_dim",
    "num_attention_heads",
    "use_linear_projection",
    "upcast_attention",
    "resnet_time_scale_shift",
    "resnet_skip_time_act",
    "resnet_out_scale_factor",
    "time_embedding_dim",
    "conv_in_kernel",
    "conv_out_kernel",
}
_KINDS_OF_MODULES = {
    SDUNet2DConditionModel,
    Timesteps,
    TimestepEmbedding,
    *(getattr(unet_2d_blocks, name) for names in _BLOCKS.values() for name in names if name),
    ResnetBlock2D,
    PixelwiseConv2d,
    SmallMapConv2d,
    Downsample2D,
    Upsample2D,
    Transformer2DModel,
    BasicTransformerBlock,
    Attention,
    FeedForward,
}
# Layers that are called as modules: those of torch, activations, and layers with adapters around them.
_PACKAGES_OF_LAYERS = ("torch.nn.modules.", "diffusers.models.activations", "peft.tuners.")
# accelerate offloads, and diffusers offloads, caches and casts layers, through these.
_HOOKS_OF_OTHERS = ("_hf_hook", "_diffusers_hook")
_FREEU = ("s1", "s2", "b1", "b2")


def can_be_prepared(unet: Any) -> bool:
    """Tell whether `PreparedUNet` computes what this U-Net's `forward` would, up to rounding.

    It does not where the network has other blocks than Stable Diffusion's or other inputs than latents, timestep and
    text; while it trains; and where somebody has put something else into the forward pass: attention processors,
    attention or feed-forward in slices, FreeU, hooks (so do offloading and caching), quantised weights, a compiled or
    replaced `forward`. Adapters of peft are layers like others.

    Args:
        unet (`torch.nn.Module`): Any network.

    Returns:
        `bool`: Whether it does.
    """
    return (
        type(unet) is SDUNet2DConditionModel
        and _has_stable_diffusions_blocks(unet.config)
        and not any(vars(block).get(name) for block in unet.up_blocks for name in _FREEU)
        and all(_is_as_it_was_built(module) for module in unet.modules())
    )


def attends_to_texts(unet: Any) -> bool:
    """Tell whether a U-Net has cross-attention.

    Args:
        unet ([`SDUNet2DConditionModel`]): One of which `can_be_prepared` is true.

    Returns:
        `bool`: Whether it has.
    """
    return any(isinstance(module, Transformer2DModel) for module in unet.modules())


def state_of(unet: nn.Module) -> list[Any]:
    """Describe the layers and weights of a U-Net, to tell whether they are still what they were.

    Args:
        unet (`torch.nn.Module`): One of which `can_be_prepared` is true.

    Returns:
        `list`: Equal to an earlier one where nothing has changed since. While there are adapters, which can be scaled
        and switched, it equals none.
    """
    state: list[Any] = []
    for module in unet.modules():
        state.append(object() if type(module).__module__.startswith("peft.") else module)
        state.extend(version_of(weight) for weight in module._parameters.values() if weight is not None)
    return state


def version_of(tensor: torch.Tensor) -> tuple[int, Any]:
    """Describe what a tensor holds, to tell whether it has been changed in place.

    Args:
        tensor (`torch.Tensor`): Any.

    Returns:
        `tuple`: Equal to an earlier one where nothing has changed since. Tensors that were made in inference mode do
        not count their changes: theirs equals none.
    """
    return tensor.data_ptr(), object() if tensor.is_inference() else tensor._version


def _has_stable_diffusions_blocks(config: Any) -> bool:
    for name, allowed in _BLOCKS.items():
        names = (config[name],) if name == "mid_block_type" else config[name]
        if not allowed.issuperset(names):
            return False
    as_usual = (config[name] == default for name, default in _usual_values().items())
    return config["norm_num_groups"] is not None and all(as_usual)


@cache
def _usual_values() -> dict[str, Any]:
    parameters = inspect.signature(UNet2DConditionModel.__init__).parameters
    names = parameters.keys() - _KEYS_OF_LAYERS - _BLOCKS.keys() - {"self"}
    return {name: parameters[name].default for name in names}


def _is_as_it_was_built(module: nn.Module) -> bool:
    kind, attributes = type(module), vars(module)
    is_known = kind in _KINDS_OF_MODULES or kind.__module__.startswith(_PACKAGES_OF_LAYERS)
    if not is_known or any(name in attributes for name in _HOOKS_OF_OTHERS):
        return False
    # accelerate leaves the method of the class as an attribute when it takes its hook off.
    if "forward" in attributes and getattr(module.forward, "__func__", None) is not kind.forward:
        return False
    if module.training or module._forward_hooks or module._forward_pre_hooks or module._compiled_call_impl is not None:
        return False
    if any(type(weight) is not nn.Parameter for weight in module._parameters.values() if weight is not None):
        return False
    if isinstance(module, Attention):
        return type(module.processor) is SDAttnProcessor
    return not isinstance(module, BasicTransformerBlock) or module._chunk_size is None
