"""Building the models that a configuration describes, and checking that they fit together, before anything runs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig

from sd_pipeline import SDAutoencoderKL, SDDDPMScheduler, SDUNet2DConditionModel
from sd_pipeline.pipelines.scheduler_use import check_prediction_type
from training.config import ConfigError, TextEncoderConfig, TrainConfig

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
        ConfigError: If they cannot be loaded.
    """
    errors = []
    for tokenizer_folder, model_folder in (("tokenizer", "text_encoder"), ("", "")):
        try:
            tokenizer = CLIPTokenizer.from_pretrained(path, subfolder=tokenizer_folder)
            model = CLIPTextModel.from_pretrained(path, subfolder=model_folder, dtype=torch.float32)
        except (OSError, ValueError) as error:
            errors.append(" ".join(str(error).split()))
        else:
            return tokenizer, model
    raise ConfigError(f"text_encoder.pretrained_model_name_or_path = {path!r}: cannot be loaded ({errors[0]})")


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


def downsampling_factor(vae: SDAutoencoderKL) -> int:
    """Return how many pixels a latent covers on each axis."""
    factor: int = 2 ** (len(vae.config["block_out_channels"]) - 1)
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
    derived: dict[str, Any] = {
        "in_channels": latent_channels,
        "out_channels": latent_channels,
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


def build_scheduler(config: TrainConfig, in_pixel_space: bool) -> SDDDPMScheduler:
    """Build the scheduler of training; it clips predictions of x_0 in pixel space only, unless it says otherwise."""
    arguments = {"clip_sample": in_pixel_space, **config.diffusion.scheduler}
    if str(arguments.get("variance_type")).startswith("learned"):
        kind = arguments["variance_type"]
        raise ConfigError(f"diffusion.scheduler.variance_type = {kind!r}: Algorithm 1 does not train variances")
    return build("diffusion.scheduler", SDDDPMScheduler, arguments)


def recommended_scheduler(config: TrainConfig, scheduler: SDDDPMScheduler) -> Any:
    """Build the scheduler that is published: a class by name, with the forward process of training.

    Raises:
        ConfigError: If there is no such class, it refuses the keys or cannot use what the model predicts.
    """
    evaluation = config.evaluation
    kind = {"SDDDPMScheduler": SDDDPMScheduler}.get(evaluation.scheduler) or getattr(
        diffusers, evaluation.scheduler, None
    )
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ConfigError(
            f"evaluation.scheduler = {evaluation.scheduler!r}: must be SDDDPMScheduler or a scheduler of diffusers, "
            "such as DDIMScheduler or DPMSolverMultistepScheduler"
        )
    # What the stock pipeline, and so ours, demands of a scheduler beside an autoencoder.
    offset = {} if scheduler.config["clip_sample"] else {"steps_offset": 1}
    for name in evaluation.scheduler_config:
        if name not in inspect.signature(kind.__init__).parameters:
            raise ConfigError(f"evaluation.scheduler_config.{name}: unknown key of {evaluation.scheduler}")
    arguments = {**scheduler.config, **offset, **evaluation.scheduler_config}
    # `from_config` would reset what is named here to the default of the class, whatever value it has by now.
    del arguments["_use_default_values"]
    published = build("evaluation.scheduler_config", lambda: kind.from_config(arguments), {})
    build("evaluation.scheduler", check_prediction_type, {"scheduler": published})
    return published


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


def check_models(config: TrainConfig, finished: Collection[str] = ()) -> None:
    """Build every model of the run's stages on the meta device, and run each once: no memory, no time.

    Args:
        config (`TrainConfig`): The run.
        finished (collection of `str`): Stages whose output is there; where the run does not train them (again), what
            the U-Net has to fit to is known only once they are loaded.

    Raises:
        ConfigError: Names the block at fault.
    """
    resolution = config.data.resolution
    with torch.device("meta"), torch.no_grad():
        pixels = torch.zeros(1, 3, resolution, resolution)
        channels, size, hidden = 3, resolution, None
        if "text_encoder" in config.stages and config.text_encoder.pretrained_model_name_or_path is None:
            text_model = build_text_model(config.text_encoder, None)
            hidden = text_model.config.hidden_size
            length = text_model.config.max_position_embeddings
            build("text_encoder.model", text_model, {"input_ids": torch.zeros(1, length, dtype=torch.long)})
            if config.text_encoder.training == "contrastive":
                clip = build_clip_model(config.text_encoder, None, resolution)
                build("text_encoder.vision_model", clip.get_image_features, {"pixel_values": pixels})
        if "autoencoder" in config.stages:
            vae = build_vae(config)
            latents = build("autoencoder.vae", vae.encode, {"x": pixels}).latent_dist.mode()
            build("autoencoder.vae", vae.decode, {"z": latents})
            channels, size = latents.shape[1], latents.shape[2]
        known_text = "text_encoder" not in config.stages or hidden is not None
        if "diffusion" in config.stages and known_text and set(finished) <= set(config.stages):
            unet = build_unet(config, channels, size, hidden)
            text = None if hidden is None else torch.zeros(1, 7, hidden)
            arguments = {"sample": torch.zeros(1, channels, size, size), "timestep": 0, "encoder_hidden_states": text}
            build("diffusion.unet", unet, arguments)
    if "diffusion" in config.stages:
        has_vae = "autoencoder" in {*config.stages, *finished}
        if config.diffusion.cache_latents and not has_vae:
            raise ConfigError("diffusion.cache_latents = True: a model in pixel space has no latents to cache")
        published = recommended_scheduler(config, build_scheduler(config, in_pixel_space=not has_vae))
        num_inference_steps = config.evaluation.num_inference_steps
        build("evaluation.num_inference_steps", published.set_timesteps, {"num_inference_steps": num_inference_steps})
