"""The two families of models in single files, Stable Diffusion 1.x and 2.x: what their files leave unsaid.

Such a file holds weights alone. Tools know the rest by heart, and so must a reader of files without our metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sd_pipeline.publishing.original_layout import (
    CLIP_PREFIX,
    NUM_LEVELS,
    OPEN_CLIP_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    KeyMap,
    clip_key_map,
    open_clip_key_map,
)
from sd_pipeline.publishing.repository_files import RepositoryError

Configs = dict[str, dict[str, Any]]
Shapes = Mapping[str, tuple[int, ...]]

SCALING_FACTOR = 0.18215
PREDICTION_TYPES = ("epsilon", "v_prediction")
VOCAB_SIZE = 49408
# In both families, but for the heads of the 1.x U-Net, a head of attention has so many channels.
HEAD_CHANNELS = 64

VAE = {"block_out_channels": [128, 256, 512, 512], "norm_num_groups": 32}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}

VAE_STRUCTURE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * NUM_LEVELS,
    "up_block_types": ["UpDecoderBlock2D"] * NUM_LEVELS,
    "layers_per_block": 2,
    "act_fn": "silu",
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
    "posterior": "diagonal",
}


@dataclass(frozen=True)
class Family:
    """What the models of one family have in common.

    Attributes:
        version (`str`): `"1"` or `"2"`.
        unet (`dict`): Configuration of the published U-Net.
        text_encoder (`dict`): Configuration of the published text encoder.
        scheduler (`str`): The class in diffusers that the published repositories sample with.
        pad_token (`str`): What the tokenizer fills prompts up with.
    """

    version: str
    unet: dict[str, Any]
    text_encoder: dict[str, Any]
    scheduler: str
    pad_token: str

    def text_key_map(self, num_layers: int) -> KeyMap:
        """Return the key map of the text encoder; see `open_clip_key_map`."""
        return open_clip_key_map(num_layers) if self.unet["use_linear_projection"] else clip_key_map()


SD_1 = Family(
    version="1",
    unet={
        "block_out_channels": [320, 640, 1280, 1280],
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "norm_num_groups": 32,
        "use_linear_projection": False,
    },
    text_encoder={
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    scheduler="PNDMScheduler",
    pad_token="<|endoftext|>",
)
SD_2 = Family(
    version="2",
    unet={
        "block_out_channels": [320, 640, 1280, 1280],
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "norm_num_groups": 32,
        "use_linear_projection": True,
    },
    text_encoder={
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    },
    scheduler="DDIMScheduler",
    pad_token="!",
)


def family_of(unet_config: Mapping[str, Any]) -> Family:
    """Tell which family a U-Net belongs to: 2.x has linear layers around its attention, 1.x 1x1 convolutions.

    Args:
        unet_config (mapping): Its configuration.

    Returns:
        `Family`: One of `SD_1` and `SD_2`.
    """
    return SD_2 if unet_config.get("use_linear_projection") else SD_1


def scheduler_config(family: Family, prediction_type: str) -> dict[str, Any]:
    """Return the scheduler of the published repositories of a family.

    Args:
        family (`Family`): Of the model.
        prediction_type (`str`): What its U-Net predicts.

    Returns:
        `dict[str, Any]`: Its configuration, with the class in `_class_name`.
    """
    return {**SCHEDULER, "_class_name": family.scheduler, "prediction_type": prediction_type}


def configs_from_shapes(file: str, shapes: Shapes) -> tuple[Family, Configs]:
    """Work out the configurations of the models in a file that says nothing but the shapes of its weights.

    Args:
        file (`str`): Its name, for messages.
        shapes (mapping): Shape of each weight.

    Returns:
        `tuple[Family, Configs]`: The family, and the configurations of `unet`, `vae` and `text_encoder`.

    Raises:
        RepositoryError: If these are not the weights of a Stable Diffusion 1.x or 2.x. Only what tells the
            configuration is looked at here.
    """
    if any(name.startswith("conditioner.") for name in shapes):
        raise RepositoryError(f"{file} is a Stable Diffusion XL file (it has conditioner.*); allowed: 1.x and 2.x")

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise RepositoryError(f"{file} is no Stable Diffusion 1.x or 2.x: it lacks the weight {name!r}")
        return shapes[name]

    block = f"{UNET_PREFIX}input_blocks."
    in_channels = shape(f"{block}0.0.weight")[1]
    if in_channels not in (4, 9):
        raise RepositoryError(f"{file}: its U-Net takes {in_channels} channels; allowed: 4 or 9")
    family = SD_1 if len(shape(f"{block}1.1.proj_in.weight")) == 4 else SD_2
    widths = [shape(f"{block}{3 * level + 1}.0.out_layers.3.weight")[0] for level in range(NUM_LEVELS)]
    unet = {
        **family.unet,
        # As published, but for those of 2.x that predict v.
        "sample_size": 64,
        "in_channels": in_channels,
        "block_out_channels": widths,
        "attention_head_dim": 8 if family is SD_1 else [_num_heads(file, width) for width in widths],
        "cross_attention_dim": shape(f"{block}1.1.transformer_blocks.0.attn2.to_k.weight")[1],
    }
    vae_widths = [shape(f"{VAE_PREFIX}encoder.down.{level}.block.0.conv1.weight")[0] for level in range(NUM_LEVELS)]
    vae = {**VAE_STRUCTURE, **VAE, "block_out_channels": vae_widths, "scaling_factor": SCALING_FACTOR}
    text_encoder = _text_config(file, family, shapes, shape)
    if text_encoder["hidden_size"] != unet["cross_attention_dim"]:
        sizes = f"{unet['cross_attention_dim']}, its text encoder {text_encoder['hidden_size']}"
        raise RepositoryError(f"{file}: its U-Net takes embeddings of {sizes}; allowed: the same")
    return family, {"unet": unet, "vae": vae, "text_encoder": text_encoder}


def _text_config(file: str, family: Family, shapes: Shapes, shape: Any) -> dict[str, Any]:
    if family is SD_1:
        ends, layers, mlp = f"{CLIP_PREFIX}embeddings.", f"{CLIP_PREFIX}encoder.layers.", "mlp.fc1.weight"
        tokens, positions = f"{ends}token_embedding.weight", f"{ends}position_embedding.weight"
    else:
        layers, mlp = f"{OPEN_CLIP_PREFIX}transformer.resblocks.", "mlp.c_fc.weight"
        tokens, positions = f"{OPEN_CLIP_PREFIX}token_embedding.weight", f"{OPEN_CLIP_PREFIX}positional_embedding"
    vocab_size, hidden_size = shape(tokens)
    num_layers = len({name.removeprefix(layers).split(".")[0] for name in shapes if name.startswith(layers)})
    return {
        **family.text_encoder,
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": shape(f"{layers}0.{mlp}")[0],
        # OpenCLIP's last layer, the 24th, was left out in training.
        "num_hidden_layers": min(num_layers, 23) if family is SD_2 else num_layers,
        "num_attention_heads": _num_heads(file, hidden_size),
        "max_position_embeddings": shape(positions)[0],
    }


def _num_heads(file: str, width: int) -> int:
    if width % HEAD_CHANNELS:
        raise RepositoryError(f"{file} does not say how many heads an attention of width {width} has")
    return width // HEAD_CHANNELS
