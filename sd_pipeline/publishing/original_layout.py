"""Names of weights in a single file, which are those of the code that Stable Diffusion was first published with.

A key map gives, for the beginning of a name in diffusers, the beginning of the name in the file. What follows is the
same in both. One map serves both directions: a reader asks for the names that it expects.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import product

KeyMap = Mapping[str, str]

NUM_LEVELS = 4
LAYERS_PER_LEVEL = 2

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.transformer.text_model."
OPEN_CLIP_PREFIX = "cond_stage_model.model."

# Linear layers in diffusers, 1x1 convolutions in the file.
CONVOLUTIONS = ".mid.attn_1."

UNET_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
UNET_ENDS = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
VAE_RESNET = {"norm1.": "norm1.", "conv1.": "conv1.", "norm2.": "norm2.", "conv2.": "conv2."} | {
    "conv_shortcut.": "nin_shortcut."
}
VAE_ATTENTION = {"group_norm.": "norm.", "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out."}
# The three projections, in this order, are one weight in the file.
OPEN_CLIP_LAYER = {
    "self_attn.q_proj.": "attn.in_proj_",
    "self_attn.k_proj.": "attn.in_proj_",
    "self_attn.v_proj.": "attn.in_proj_",
    "self_attn.out_proj.": "attn.out_proj.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}
OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.": "token_embedding.",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.": "ln_final.",
}


def weights_by_original_name(names: Collection[str], key_map: KeyMap) -> dict[str, list[str]]:
    """Find what each weight is called in the file.

    Args:
        names (collection of `str`): Names in a state dict of diffusers or transformers.
        key_map (mapping): One of those below.

    Returns:
        `dict[str, list[str]]`: For each name in the file, the weights that it holds, joined along their first
        dimension in this order. Names without a place in the file are left out.
    """
    found: dict[str, list[str]] = {}
    for beginning, original in key_map.items():
        for name in names:
            if name.startswith(beginning):
                found.setdefault(original + name[len(beginning) :], []).append(name)
    return found


def unet_key_map() -> KeyMap:
    """Return the key map of the U-Net.

    The file counts blocks through all levels: `input_blocks.0` is the first convolution, then each level has its
    layers and, but for the last, a block that halves the resolution; the decoder doubles it within its last layer.
    """
    key_map = dict(UNET_ENDS)
    blocks = LAYERS_PER_LEVEL + 1
    for level, layer in product(range(NUM_LEVELS), range(LAYERS_PER_LEVEL)):
        block = f"input_blocks.{blocks * level + layer + 1}"
        key_map |= _inside(f"down_blocks.{level}.resnets.{layer}.", f"{block}.0.", UNET_RESNET)
        key_map[f"down_blocks.{level}.attentions.{layer}."] = f"{block}.1."
    for layer, block in enumerate(("middle_block.0.", "middle_block.2.")):
        key_map |= _inside(f"mid_block.resnets.{layer}.", block, UNET_RESNET)
    key_map["mid_block.attentions.0."] = "middle_block.1."
    for level, layer in product(range(NUM_LEVELS), range(blocks)):
        block = f"output_blocks.{blocks * level + layer}"
        key_map |= _inside(f"up_blocks.{level}.resnets.{layer}.", f"{block}.0.", UNET_RESNET)
        key_map[f"up_blocks.{level}.attentions.{layer}."] = f"{block}.1."
    for level in range(NUM_LEVELS - 1):
        key_map[f"down_blocks.{level}.downsamplers.0.conv."] = f"input_blocks.{blocks * (level + 1)}.0.op."
        # The lowest level has no attention before it.
        key_map[f"up_blocks.{level}.upsamplers.0.conv."] = (
            f"output_blocks.{blocks * level + 2}.{min(level, 1) + 1}.conv."
        )
    return _inside("", UNET_PREFIX, key_map)


def vae_key_map() -> KeyMap:
    """Return the key map of the autoencoder. The file counts the decoder's levels from the finest."""
    key_map = {"quant_conv.": "quant_conv.", "post_quant_conv.": "post_quant_conv."}
    for half in ("encoder.", "decoder."):
        key_map |= {f"{half}conv_in.": f"{half}conv_in.", f"{half}conv_out.": f"{half}conv_out."}
        key_map[f"{half}conv_norm_out."] = f"{half}norm_out."
        key_map |= _inside(f"{half}mid_block.attentions.0.", f"{half}mid.attn_1.", VAE_ATTENTION)
        for layer in range(2):
            key_map |= _inside(f"{half}mid_block.resnets.{layer}.", f"{half}mid.block_{layer + 1}.", VAE_RESNET)
    for level, layer in product(range(NUM_LEVELS), range(LAYERS_PER_LEVEL)):
        ours, original = f"encoder.down_blocks.{level}.resnets.{layer}.", f"encoder.down.{level}.block.{layer}."
        key_map |= _inside(ours, original, VAE_RESNET)
    for level, layer in product(range(NUM_LEVELS), range(LAYERS_PER_LEVEL + 1)):
        original = f"decoder.up.{NUM_LEVELS - 1 - level}.block.{layer}."
        key_map |= _inside(f"decoder.up_blocks.{level}.resnets.{layer}.", original, VAE_RESNET)
    for level in range(NUM_LEVELS - 1):
        key_map[f"encoder.down_blocks.{level}.downsamplers.0."] = f"encoder.down.{level}.downsample."
        key_map[f"decoder.up_blocks.{level}.upsamplers.0."] = f"decoder.up.{NUM_LEVELS - 1 - level}.upsample."
    return _inside("", VAE_PREFIX, key_map)


def clip_key_map() -> KeyMap:
    """Return the key map of the text encoder of Stable Diffusion 1.x, which transformers named."""
    return {"": CLIP_PREFIX}


def open_clip_key_map(num_layers: int) -> KeyMap:
    """Return the key map of the text encoder of Stable Diffusion 2.x, which OpenCLIP named.

    Args:
        num_layers (`int`): How many layers it has.

    Returns:
        `KeyMap`: For names of transformers without `text_model.`.
    """
    key_map = dict(OPEN_CLIP_ENDS)
    for layer in range(num_layers):
        key_map |= _inside(f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}.", OPEN_CLIP_LAYER)
    return _inside("", OPEN_CLIP_PREFIX, key_map)


def _inside(ours: str, original: str, key_map: KeyMap) -> dict[str, str]:
    return {ours + left: original + right for left, right in key_map.items()}
