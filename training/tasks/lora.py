"""Low-rank adapters in place of the weights: putting them in, and writing them as diffusers reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from transformers import CLIPTextModel

from sd_pipeline import SDUNet2DConditionModel
from sd_pipeline.publishing.repository import check_finite, flush
from training.config import ConfigError, LoraConfig

LORA_FILE = "pytorch_lora_weights.safetensors"


def add_adapters(
    unet: SDUNet2DConditionModel, text_encoder: CLIPTextModel | None, settings: LoraConfig, seed: int
) -> None:
    """Freeze all weights and add adapters, which are trained: W + (lora_alpha / rank) B A, with B zero at first.

    (Hu et al. 2021, equation 3. A is drawn from a normal distribution, so that nothing changes before training.)

    Args:
        unet (`SDUNet2DConditionModel`): Gets adapters.
        text_encoder (`CLIPTextModel`, *optional*): Gets adapters too.
        settings (`LoraConfig`): Where, and how large.
        seed (`int`): Names the draws.

    Raises:
        ConfigError: If a target module is found nowhere.
    """
    torch.manual_seed(seed)
    _add(unet, settings, "target_modules")
    if text_encoder is not None:
        _add(text_encoder, settings, "text_encoder_target_modules")


def _add(model: SDUNet2DConditionModel | CLIPTextModel, settings: LoraConfig, key: str) -> None:
    targets = getattr(settings, key)
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise ConfigError(f"diffusion.lora.{key}: no layer of {type(model).__name__} is called {target!r}")
    model.requires_grad_(False)
    adapter = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank if settings.lora_alpha is None else settings.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        init_lora_weights="gaussian",
    )
    try:
        model.add_adapter(adapter)
    except ValueError as error:
        raise ConfigError(f"diffusion.lora.{key} = {targets}: {' '.join(str(error).split())}") from error


def save_adapters(folder: Path, unet: SDUNet2DConditionModel, text_encoder: CLIPTextModel | None) -> None:
    """Write the adapters as diffusers does: one file, with their ranks and factors in its metadata.

    Args:
        folder (`Path`): Where to.
        unet (`SDUNet2DConditionModel`): With adapters.
        text_encoder (`CLIPTextModel`, *optional*): With adapters.

    Raises:
        ValueError: If a weight is not finite.
    """
    for name, model in (("unet", unet), ("text_encoder", text_encoder)):
        if model is not None:
            check_finite(name, model)
    layers: dict[str, Any] = {"unet": convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))}
    metadata = {"unet": _metadata(unet)}
    if text_encoder is not None:
        adapters = convert_state_dict_to_diffusers(get_peft_model_state_dict(text_encoder))
        # Until transformers 5 the network was one module deeper.
        layers["text_encoder"] = {f"text_model.{key.removeprefix('text_model.')}": a for key, a in adapters.items()}
        metadata["text_encoder"] = _metadata(text_encoder)
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        folder,
        unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=layers.get("text_encoder"),  # type: ignore[arg-type]
        weight_name=LORA_FILE,
        unet_lora_adapter_metadata=metadata["unet"],
        text_encoder_lora_adapter_metadata=metadata.get("text_encoder"),
    )
    (folder / LORA_FILE).chmod(0o644)
    flush(folder / LORA_FILE)


def _metadata(model: SDUNet2DConditionModel | CLIPTextModel) -> dict[str, Any]:
    # Where the weights lie on this machine is nobody else's business.
    adapter: Any = model.peft_config["default"]
    return {**adapter.to_dict(), "base_model_name_or_path": None}
