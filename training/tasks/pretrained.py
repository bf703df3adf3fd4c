"""A finished model to go on from, in place of what the earlier stages of a run make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sd_pipeline import SDInpaintPipeline
from sd_pipeline.models.inpainting_channels import grow_for_inpainting
from training.config import ConfigError, EvaluationConfig, TrainConfig
from training.tasks.components import FrozenModels, build, downsampling_factor

_KEY = "diffusion.pretrained_model_name_or_path"

STOCK_EVALUATION = {"num_inference_steps": 50, "guidance_scale": 7.5, "eta": 0.0}


def load_pretrained(config: TrainConfig) -> SDInpaintPipeline | None:
    """Load the model that a run goes on from, if it does, in float32, and check that the run can.

    Args:
        config (`TrainConfig`): The run.

    Returns:
        [`SDInpaintPipeline`], whose U-Net may be one of text to image or one that inpaints, as the run trains it; or
        `None` where the run starts from nothing.

    Raises:
        ConfigError: If there is no such model, its files are damaged, or it does not fit the run.
    """
    path = config.diffusion.pretrained_model_name_or_path
    if path is None:
        return None
    try:
        pipe = SDInpaintPipeline.from_pretrained(path, dtype=torch.float32)
        pipe.check_components()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{_KEY} = {path!r}: {' '.join(str(error).split())}") from error
    factor = 1 if pipe.vae is None else downsampling_factor(pipe.vae)
    if config.data.resolution % factor:
        raise ConfigError(f"data.resolution = {config.data.resolution}: must be a multiple of {factor} for {path}")
    if pipe.is_inpainting_model and not config.diffusion.inpainting:
        raise ConfigError(f"diffusion.inpainting = False: must be true, as {path} was trained to inpaint")
    is_to_grow = config.diffusion.inpainting and not pipe.is_inpainting_model
    if is_to_grow and config.diffusion.lora.rank > 0:
        raise ConfigError(
            f"diffusion.lora.rank = {config.diffusion.lora.rank}: must be 0 to make {path} inpaint, since its U-Net "
            "gets new channels; adapters can go on from one that inpaints"
        )
    if is_to_grow and config.diffusion.distillation.is_on:
        raise ConfigError(
            f"diffusion.inpainting = True: must be false to distil {path}, which was not trained to inpaint"
        )
    if is_to_grow:
        pipe.unet = build("diffusion.inpainting", grow_for_inpainting, {"unet": pipe.unet})
    return pipe


def frozen_models_of(pipe: SDInpaintPipeline, device: torch.device) -> FrozenModels:
    """Take out what the U-Net is trained beside.

    Args:
        pipe ([`SDInpaintPipeline`]): The model.
        device (`torch.device`): Where the models go.
    """
    for model in (pipe.vae, pipe.text_encoder):
        if model is not None:
            model.to(device)
    return FrozenModels(pipe.tokenizer, pipe.text_encoder, pipe.vae)


def recommended_call(
    evaluation: EvaluationConfig, has_text: bool, of_pretrained: Mapping[str, Any] | None
) -> dict[str, int | float]:
    """Work out how to call the finished pipeline: as the run says, else as the model it started from, else as stock.

    Args:
        evaluation (`EvaluationConfig`): What the run says.
        has_text (`bool`): Whether there are prompts to follow.
        of_pretrained (mapping, *optional*): What the pretrained model recommends.

    Returns:
        `dict`: `num_inference_steps`, with text `guidance_scale`, and what differs from stock besides.
    """
    given = {name: getattr(evaluation, name) for name in STOCK_EVALUATION}
    call = {**STOCK_EVALUATION, **(of_pretrained or {}), **{k: v for k, v in given.items() if v is not None}}
    if not has_text:
        del call["guidance_scale"]
    return {name: value for name, value in call.items() if value or name not in ("eta", "guidance_rescale")}
