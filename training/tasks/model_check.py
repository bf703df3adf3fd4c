"""Checking that the models of a configuration can be built and fit together, before anything runs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from sd_pipeline import SDDDPMScheduler, SDInpaintPipeline, SDUNet2DConditionModel
from sd_pipeline.pipelines.scheduler_use import Scheduler
from training.config import ConfigError, TrainConfig
from training.data.latent_identity import check_cache_folder
from training.tasks.components import (
    build,
    build_clip_model,
    build_discriminator,
    build_text_model,
    build_unet,
    build_vae,
    downsampling_factor,
    load_text_encoder,
)
from training.tasks.distillation import check_teacher
from training.tasks.perceptual_distance import MISSING_CLIP, load_perceptual_distance
from training.tasks.pretrained import load_pretrained
from training.tasks.schedulers import build_scheduler, recommended_scheduler
from training.tasks.segmentation_model import check_segmentation


def check_models(
    config: TrainConfig, finished: Collection[str] = (), pretrained: SDInpaintPipeline | None = None
) -> None:
    """Build every model of the run's stages on the meta device, and run each once: no memory, no time.

    Args:
        config (`TrainConfig`): The run.
        finished (collection of `str`): Stages whose output is there; where the run does not train them (again), what
            the U-Net has to fit to is known only once they are loaded.
        pretrained (`SDInpaintPipeline`, *optional*): The model that the run goes on from; loaded, if it is not given.

    Raises:
        ConfigError: Names the block at fault.
        DataError: If the folder of the latent cache holds something else, or cannot be made.
    """
    if config.segments:
        check_segmentation(config)
        return
    pretrained = pretrained or load_pretrained(config)
    if config.data.aspect_ratio_bucket_step is not None:
        _check_bucket_step(config, config.data.aspect_ratio_bucket_step, finished, pretrained)
    if pretrained is not None:
        _check_cache(config, has_vae=pretrained.vae is not None)
        _check_text_embeddings(config, has_text=pretrained.text_encoder is not None)
        scheduler = build_scheduler(config, pretrained.vae is None, pretrained.scheduler)
        if config.diffusion.distillation.is_on:
            check_teacher(config, pretrained, scheduler)
        _check_sampler(config, scheduler, pretrained.scheduler)
        return
    if "autoencoder" in config.stages:
        _check_perceptual(config, finished)
    resolution = config.data.resolution
    hidden = _check_text_encoder(config) if "text_encoder" in config.stages else None
    with torch.device("meta"), torch.no_grad():
        pixels = torch.zeros(1, 3, resolution, resolution)
        channels, size = 3, resolution
        if "autoencoder" in config.stages:
            vae = build_vae(config)
            latents = build("autoencoder.vae", vae.encode, {"x": pixels}).latent_dist.mode()
            build("autoencoder.vae", vae.decode, {"z": latents})
            channels, size = latents.shape[1], latents.shape[2]
            if config.autoencoder.adversarial.scale > 0:
                build(
                    "autoencoder.adversarial.num_layers",
                    build_discriminator(config.autoencoder.adversarial).logits,
                    {"pixel_values": pixels},
                )
        if "diffusion" in config.stages and set(finished) <= set(config.stages):
            unet = build_unet(config, channels, size, hidden)
            text = None if hidden is None else torch.zeros(1, 7, hidden)
            sample = torch.zeros(1, unet.config["in_channels"], size, size)
            arguments = {"sample": sample, "timestep": 0, "encoder_hidden_states": text}
            build("diffusion.unet", unet, arguments)
    if "diffusion" in config.stages:
        has_vae = "autoencoder" in {*config.stages, *finished}
        _check_cache(config, has_vae)
        _check_text_embeddings(config, has_text="text_encoder" in {*config.stages, *finished})
        _check_sampler(config, build_scheduler(config, in_pixel_space=not has_vae))


def _check_bucket_step(
    config: TrainConfig, step: int, finished: Collection[str], pretrained: SDInpaintPipeline | None
) -> None:
    """Refuse sizes that the models cannot halve as often as they do."""
    vae, unet = (None, None) if pretrained is None else (pretrained.vae, pretrained.unet)
    with torch.device("meta"):
        if pretrained is None and "autoencoder" in {*config.stages, *finished}:
            vae = build_vae(config)
        if pretrained is None and "diffusion" in config.stages:
            unet = build("diffusion.unet", SDUNet2DConditionModel, config.diffusion.unet)
    of_vae = 1 if vae is None else downsampling_factor(vae)
    of_unet = 1 if unet is None else downsampling_factor(unet)
    if step % (of_vae * of_unet):
        raise ConfigError(
            f"data.aspect_ratio_bucket_step = {step}: must be a multiple of {of_vae * of_unet}, as the autoencoder "
            f"shrinks pictures by {of_vae} and the U-Net what it sees by {of_unet}"
        )


def _check_perceptual(config: TrainConfig, finished: Collection[str]) -> None:
    """Refuse a perceptual distance without a network."""
    settings = config.autoencoder.perceptual
    if settings.scale == 0:
        return
    if settings.model_name_or_path is not None:
        load_perceptual_distance(settings.model_name_or_path)
    elif config.text_encoder.training != "contrastive" or "text_encoder" not in {*config.stages, *finished}:
        raise ConfigError(MISSING_CLIP)


def _check_cache(config: TrainConfig, has_vae: bool) -> None:
    if config.diffusion.cache_latents and not has_vae:
        raise ConfigError("diffusion.cache_latents = True: a model in pixel space has no latents to cache")
    if config.diffusion.cache_latents:
        check_cache_folder(Path(config.latent_cache_dir).expanduser(), {})


def _check_text_embeddings(config: TrainConfig, has_text: bool) -> None:
    if config.diffusion.pre_compute_text_embeddings and not has_text:
        raise ConfigError("diffusion.pre_compute_text_embeddings = True: the model has no text encoder")


def _check_sampler(config: TrainConfig, scheduler: SDDDPMScheduler, of_pretrained: Scheduler | None = None) -> None:
    published = recommended_scheduler(config, scheduler, of_pretrained)
    steps = config.sampling.num_inference_steps or 1
    build("evaluation.num_inference_steps", published.set_timesteps, {"num_inference_steps": steps})


def _check_text_encoder(config: TrainConfig) -> int:
    """Check the text encoder, and the image tower beside it, and return the width of its output."""
    block, resolution = config.text_encoder, config.data.resolution
    if block.pretrained_model_name_or_path is not None:
        _, pretrained = load_text_encoder(block.pretrained_model_name_or_path)
        return int(pretrained.config.hidden_size)
    with torch.device("meta"), torch.no_grad():
        text_model = build_text_model(block, None)
        input_ids = torch.zeros(1, text_model.config.max_position_embeddings, dtype=torch.long)
        build("text_encoder.model", text_model, {"input_ids": input_ids})
        if block.training == "contrastive":
            clip = build_clip_model(block, None, resolution)
            pixels = torch.zeros(1, 3, resolution, resolution)
            build("text_encoder.vision_model", clip.get_image_features, {"pixel_values": pixels})
    return int(text_model.config.hidden_size)
