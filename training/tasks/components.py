"""Building the models that a configuration describes, and checking that they fit together, before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig

from sd_pipeline import SDAutoencoderKL, SDUNet2DConditionModel
from sd_pipeline.pretrained_models import folder_or_name
from sd_pipeline.publishing.repository_files import MissingFileError
from sd_pipeline.stock_weights import safetensors_folder
from training.config import AdversarialConfig, ConfigError, TextEncoderConfig, TrainConfig
from training.tasks.patch_discriminator import PatchDiscriminator

T = TypeVar("T")

# What constructors raise when their arguments are impossible.
_REFUSALS = (TypeError, ValueError, KeyError, RuntimeError, ZeroDivisionError, StrictDataclassError)


def build(key: str, factory: Callable[..., T], arguments: Mapping[str, Any]) -> T:
    """Call `factory(**arguments)`.

    Raises:
        ConfigError: If it refuses them; one line that starts with the `key` of the configuration.
    """
    try:
        return factory(**arguments)
    except _REFUSALS as error:
        raise ConfigError(f"{key}: {' '.join(str(error).split())}") from error


def _clip_config(key: str, kind: type[T], arguments: Mapping[str, Any], **derived: Any) -> T:
    """Build a configuration of transformers, whose classes take any key, from known keys only."""
    known = sorted({field.name for field in dataclasses.fields(kind)} - derived.keys())  # type: ignore[arg-type]
    for name in arguments:
        if name in derived:
            raise ConfigError(f"{key}.{name}: cannot be given; it follows from the other keys of the run")
        if name not in known:
            raise ConfigError(f"{key}.{name}: unknown key; allowed: {', '.join(known)}")
    return build(key, kind, {**derived, **arguments})


def text_model_config(config: TextEncoderConfig, tokenizer: CLIPTokenizer | None) -> CLIPTextConfig:
    """Return the text encoder's configuration.

    Args:
        config (`TextEncoderConfig`): The block of the run.
        tokenizer (`CLIPTokenizer`, *optional*): Gives the vocabulary; without one its largest size is taken.
    """
    size = len(tokenizer) if tokenizer is not None else config.vocab_size
    return _clip_config(
        "text_encoder.model",
        CLIPTextConfig,
        config.model,
        vocab_size=size,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
        projection_dim=config.projection_dim,
    )


def build_text_model(config: TextEncoderConfig, tokenizer: CLIPTokenizer | None) -> CLIPTextModel:
    """Build a text encoder with random weights."""
    return build("text_encoder.model", CLIPTextModel, {"config": text_model_config(config, tokenizer)})


def load_text_encoder(path: str) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Load a tokenizer and a text encoder, in float32.

    Args:
        path (`str`): A folder or a Hub repository with `tokenizer` and `text_encoder` in it, as every Stable
            Diffusion has, or with both at its root, as every CLIP has.

    Raises:
        ConfigError: If they cannot be loaded, or the weights are pickles.
    """
    errors: list[Exception] = []
    for tokenizer_folder, model_folder in (("tokenizer", "text_encoder"), ("", "")):
        try:
            folder = safetensors_folder(path, model_folder)
            tokenizer = CLIPTokenizer.from_pretrained(folder_or_name(path), subfolder=tokenizer_folder)
            model = CLIPTextModel.from_pretrained(
                folder, subfolder=model_folder, dtype=torch.float32, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            errors.append(error)
        else:
            return tokenizer, model
    # What is wrong with a model that is there says more than where else there is none.
    told = next((one for one in errors if not isinstance(one, MissingFileError)), errors[0])
    reason = " ".join(str(told).split())
    raise ConfigError(f"text_encoder.pretrained_model_name_or_path = {path!r}: cannot be loaded ({reason})")


def build_clip_model(config: TextEncoderConfig, tokenizer: CLIPTokenizer | None, resolution: int) -> CLIPModel:
    """Build the text and image towers of contrastive training with random weights."""
    vision = _clip_config(
        "text_encoder.vision_model",
        CLIPVisionConfig,
        config.vision_model,
        image_size=resolution,
        projection_dim=config.projection_dim,
    )
    text = text_model_config(config, tokenizer)
    clip_config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=config.projection_dim
    )
    return build("text_encoder.vision_model", CLIPModel, {"config": clip_config})


def build_vae(config: TrainConfig) -> SDAutoencoderKL:
    """Build the autoencoder with random weights.

    Raises:
        ConfigError: If its keys are impossible, or its factor does not divide the resolution.
    """
    vae = build("autoencoder.vae", SDAutoencoderKL, {"sample_size": config.data.resolution, **config.autoencoder.vae})
    for name in ("use_quant_conv", "use_post_quant_conv"):
        if not vae.config[name]:
            raise ConfigError(f"autoencoder.vae.{name} = False: must be true, as the latents' statistics go into it")
    factor = downsampling_factor(vae)
    if config.data.resolution % factor:
        raise ConfigError(
            f"data.resolution = {config.data.resolution}: must be a multiple of {factor}, as autoencoder.vae shrinks"
        )
    return vae


def build_discriminator(config: AdversarialConfig) -> PatchDiscriminator:
    """Build the autoencoder's discriminator with random weights."""
    return PatchDiscriminator(3, config.base_channels, config.num_layers, config.loss)


def downsampling_factor(model: SDAutoencoderKL | SDUNet2DConditionModel) -> int:
    """Return by how much a model shrinks each axis; of an autoencoder, how many pixels a latent covers."""
    factor: int = 2 ** (len(model.config["block_out_channels"]) - 1)
    return factor


def build_unet(
    config: TrainConfig, latent_channels: int, latent_size: int, cross_attention_dim: int | None
) -> SDUNet2DConditionModel:
    """Build the U-Net with random weights; what is not given follows from the other models.

    Args:
        config (`TrainConfig`): The run.
        latent_channels (`int`): Channels of what is denoised.
        latent_size (`int`): Its side.
        cross_attention_dim (`int`, *optional*): Width of the text encoder; `None` without one.

    Raises:
        ConfigError: If its keys are impossible or contradict the other models.
    """
    # A U-Net that inpaints also sees the mask and the latents of the masked image.
    in_channels = 2 * latent_channels + 1 if config.diffusion.inpainting else latent_channels
    derived: dict[str, Any] = {
        "in_channels": in_channels,
        # A learned variance comes after the prediction.
        "out_channels": latent_channels * (2 if config.diffusion.learns_variance else 1),
        "sample_size": latent_size,
    }
    if cross_attention_dim is not None:
        derived["cross_attention_dim"] = cross_attention_dim
    given = config.diffusion.unet
    for name, value in derived.items():
        if given.get(name, value) != value:
            raise ConfigError(f"diffusion.unet.{name} = {given[name]!r}: the other models of the run need {value}")
    unet = build("diffusion.unet", SDUNet2DConditionModel, {**derived, **given})
    _check_conditioning(unet, cross_attention_dim)
    return unet


def _check_conditioning(unet: SDUNet2DConditionModel, cross_attention_dim: int | None) -> None:
    """Refuse cross-attention without text, and text without cross-attention."""
    kinds = [*unet.config["down_block_types"], *unet.config["up_block_types"], unet.config["mid_block_type"] or ""]
    crossing = [kind for kind in kinds if "CrossAttn" in kind]
    if cross_attention_dim is None and crossing:
        raise ConfigError(
            f"diffusion.unet: {crossing[0]} attends to a text encoder, and the run has none; without one take "
            "DownBlock2D, AttnDownBlock2D, UpBlock2D, AttnUpBlock2D and mid_block_type UNetMidBlock2D"
        )
    if cross_attention_dim is not None and not crossing:
        raise ConfigError("diffusion.unet: no block attends to the text encoder; take some CrossAttnDownBlock2D")


@dataclasses.dataclass(frozen=True)
class FrozenModels:
    """What the earlier stages made; all of it optional.

    Args:
        tokenizer (`CLIPTokenizer`, *optional*): None for an unconditional model.
        text_encoder (`CLIPTextModel`, *optional*): Frozen, unless it is trained with the U-Net.
        vae (`SDAutoencoderKL`, *optional*): With standard latents. None for a model in pixel space.
    """

    tokenizer: CLIPTokenizer | None = None
    text_encoder: CLIPTextModel | None = None
    vae: SDAutoencoderKL | None = None


def load_frozen_models(
    text_encoder_folder: Path | None, autoencoder_folder: Path | None, device: torch.device
) -> FrozenModels:
    """Load what the earlier stages of a run made, for the diffusion model.

    Args:
        text_encoder_folder (`Path`, *optional*): Finished output of the stage `text_encoder`.
        autoencoder_folder (`Path`, *optional*): Finished output of the stage `autoencoder`.
        device (`torch.device`): Where the models go.
    """
    tokenizer = text_encoder = vae = None
    if text_encoder_folder is not None:
        tokenizer, text_encoder = load_text_encoder(str(text_encoder_folder))
        text_encoder.to(device)  # type: ignore[arg-type]
    if autoencoder_folder is not None:
        vae = SDAutoencoderKL.from_pretrained(autoencoder_folder / "vae").to(device)
    return FrozenModels(tokenizer, text_encoder, vae)
