"""Which models have the shape of Stable Diffusion 1.x and 2.x, and where they differ from the published ones."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel

from sd_pipeline.publishing.original_families import PREDICTION_TYPES, SCHEDULER, VAE, VAE_STRUCTURE, family_of
from sd_pipeline.publishing.original_layout import NUM_LEVELS

# Where models of this shape may differ from diffusers' default U-Net, whose structure is that of both families.
UNET_FREE = (
    "sample_size",
    "in_channels",
    "block_out_channels",
    "attention_head_dim",
    "cross_attention_dim",
    "norm_num_groups",
    "use_linear_projection",
    "upcast_attention",
    "dropout",
)


def check_structure(unet: Any, vae: Any, text_encoder: Any, scheduler: Any) -> None:
    """Check that models have the shape of Stable Diffusion 1.x or 2.x, at any width.

    Args:
        unet (`Any`): The component, or none; the others likewise.
        vae (`Any`): The autoencoder.
        text_encoder (`Any`): The text encoder.
        scheduler (`Any`): The scheduler.

    Raises:
        ValueError: If they do not. The message names the first difference.
    """
    for name, component in {"unet": unet, "vae": vae, "text_encoder": text_encoder, "scheduler": scheduler}.items():
        _require(component is not None, name, component, "all four components")
    defaults = inspect.signature(UNet2DConditionModel.__init__).parameters
    structure = {name: defaults[name].default for name in defaults if name not in ("self", *UNET_FREE)}
    _require_equal("unet", unet.config, structure)
    _require_equal("vae", {"posterior": "diagonal", **vae.config}, VAE_STRUCTURE)
    _require(unet.config["in_channels"] in (4, 9), "unet.config.in_channels", unet.config["in_channels"], "4 or 9")
    _require(isinstance(text_encoder, CLIPTextModel), "text_encoder", type(text_encoder).__name__, "a CLIPTextModel")
    width, hidden_size = unet.config["cross_attention_dim"], text_encoder.config.hidden_size
    _require(width == hidden_size, "unet.config.cross_attention_dim", width, f"{hidden_size}, as text_encoder has")
    prediction_type = scheduler.config.get("prediction_type", "epsilon")
    allowed = " or ".join(PREDICTION_TYPES)
    _require(prediction_type in PREDICTION_TYPES, "scheduler.config.prediction_type", prediction_type, allowed)
    _require(hasattr(scheduler, "alphas_cumprod"), "scheduler", type(scheduler).__name__, "one of diffusion")


def differences(unet: Any, vae: Any, text_encoder: Any, scheduler: Any) -> list[str]:
    """List what other tools will get wrong: where models of this shape differ from what those know by heart.

    Args:
        unet (`Any`): The component; the others likewise.
        vae (`Any`): The autoencoder.
        text_encoder (`Any`): The text encoder.
        scheduler (`Any`): The scheduler.

    Returns:
        `list[str]`: One entry a key, with its value and theirs.
    """
    family = family_of(unet.config)
    published = (
        ("unet", unet.config, family.unet),
        ("vae", vae.config, VAE),
        ("text_encoder", text_encoder.config.to_dict(), family.text_encoder),
    )
    found = [
        f"{name}.config.{key} is {_plain(config[key])}, theirs {value}"
        for name, config, theirs in published
        for key, value in theirs.items()
        if _plain(config[key]) not in (value, [value] * NUM_LEVELS)
    ]
    betas = torch.linspace(SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5, 1000) ** 2
    alphas_cumprod = (1 - betas).cumprod(0)
    stored = scheduler.alphas_cumprod.cpu().float()
    if stored.shape != alphas_cumprod.shape or not torch.allclose(stored, alphas_cumprod, atol=1e-4):
        found.append("the scheduler's noise schedule is not scaled_linear from 0.00085 to 0.012 in 1000 steps")
    return found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _require_equal(name: str, config: Mapping[str, Any], structure: Mapping[str, Any]) -> None:
    for key, value in structure.items():
        _require(_plain(config.get(key, value)) == _plain(value), f"{name}.config.{key}", config.get(key), repr(value))
    widths = config["block_out_channels"]
    _require(len(widths) == NUM_LEVELS, f"{name}.config.block_out_channels", widths, f"{NUM_LEVELS} widths")


def _require(fits: bool, name: str, value: Any, allowed: str) -> None:
    if not fits:
        raise ValueError(f"{name} is {value!r}; a single file, for Stable Diffusion 1.x and 2.x, needs {allowed}")
