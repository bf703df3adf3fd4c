"""A whole model in one `.safetensors` file, in the layout that ComfyUI and A1111 read: out and in.

For models of the shape of Stable Diffusion 1.x and 2.x, at any width. ComfyUI and A1111 themselves know the published
widths only.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from sd_pipeline.models.autoencoder_kl import SDAutoencoderKL
from sd_pipeline.models.unet_2d_condition import SDUNet2DConditionModel
from sd_pipeline.publishing.original_families import (
    PREDICTION_TYPES,
    SD_2,
    configs_from_shapes,
    scheduler_config,
)
from sd_pipeline.publishing.original_structure import check_structure, differences
from sd_pipeline.publishing.original_weights import OriginalWeights, noise_schedule, to_original
from sd_pipeline.publishing.repository import flush
from sd_pipeline.publishing.repository_files import RepositoryError, read_shapes
from sd_pipeline.publishing.single_file_metadata import (
    build_scheduler,
    build_tokenizer,
    describe,
    read_own,
    read_prediction_type,
)

logger = logging.getLogger(__name__)

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
ZIP_MAGIC = b"PK\x03\x04"


def save_single_file(
    file: str | os.PathLike,
    *,
    unet: SDUNet2DConditionModel | UNet2DConditionModel,
    vae: SDAutoencoderKL | AutoencoderKL,
    text_encoder: CLIPTextModel,
    scheduler: Any,
    tokenizer: CLIPTokenizer | None = None,
    recommended_call: Mapping[str, int | float] | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model as one `.safetensors` file in the layout of the original code.

    Other tools take latents to be raw latents times 0.18215. An autoencoder with another scale is therefore written
    with rescaled quant convolutions, as `fold_latent_statistics` rescales them; `load_single_file` restores it to the
    bit from what is kept beside them. What other tools cannot be told is named in a warning.

    Args:
        file (`str` or `os.PathLike`): Where to. It appears at once, complete and on disk, or not at all.
        unet ([`SDUNet2DConditionModel`]): With 4 or 9 input channels, at any width.
        vae ([`SDAutoencoderKL`]): With four levels, at any width.
        text_encoder ([`~transformers.CLIPTextModel`]): Of any size.
        scheduler (`Any`): The one to sample with. Predicts the noise or v.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Is kept in the file unless it is CLIP's own.
        recommended_call (`Mapping[str, int | float]`, *optional*): Defaults of a call; see [`SDPipeline`].
        dtype (`torch.dtype`, *optional*): Of the weights in the file; by default as they are.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a file that is there may be replaced.

    Raises:
        ValueError: If the file exists, its name does not end in `.safetensors`, the models have another shape than
            Stable Diffusion 1.x and 2.x, or a weight is not finite (in `dtype`).
    """
    target = Path(file).absolute()
    if target.suffix != ".safetensors":
        raise ValueError(f"{file}: the name of a single file must end in .safetensors")
    if target.is_dir() or (target.exists() and not overwrite):
        raise ValueError(f"{file} exists and is not overwritten; `overwrite=True` replaces a file")
    components = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "scheduler": scheduler}
    check_structure(**components)
    metadata = describe(target.stem, **components, tokenizer=tokenizer, recommended_call=recommended_call or {})
    unsaid = differences(**components)
    if unsaid:
        logger.warning(
            "Tools that know the published models by heart, such as ComfyUI and A1111, will not load this file, or "
            f"make other images of it: {'; '.join(unsaid)}"
        )
    weights = to_original(unet, vae, text_encoder, dtype)
    _write(target, weights | noise_schedule(scheduler), metadata)


def load_single_file(
    file: str | os.PathLike,
    *,
    tokenizer: CLIPTokenizer | None = None,
    scheduler: Any = None,
    prediction_type: str | None = None,
    dtype: torch.dtype | None = None,
    extract_ema: bool = False,
) -> dict[str, Any]:
    """Read a model from a `.safetensors` file in the layout of the original code.

    A file that `save_single_file` wrote is restored as it was. Of others, the shapes of the weights tell the
    configuration. Stable Diffusion 2.x files do not tell by their shapes whether the U-Net predicts the noise or v:
    `prediction_type` decides, else the file's metadata (ModelSpec), else the weight `v_pred`, else a statistic of one
    bias, as in ComfyUI, with a warning. (diffusers takes v where nothing says otherwise.)

    Args:
        file (`str` or `os.PathLike`): The file.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): By default that of the file, else CLIP's own, from
            the Hub or its cache.
        scheduler (`Any`, *optional*): By default that of the file, else `PNDMScheduler` (1.x) or `DDIMScheduler`.
        prediction_type (`str`, *optional*): `"epsilon"` or `"v_prediction"`; not together with `scheduler`.
        dtype (`torch.dtype`, *optional*): Of the models; by default that of the file.
        extract_ema (`bool`, *optional*, defaults to `False`): Take the U-Net's averaged weights (`model_ema.*`).

    Returns:
        `dict[str, Any]`: `unet`, `vae`, `text_encoder`, `tokenizer`, `scheduler` and `recommended_call`, the arguments
        of [`SDPipeline`].

    Raises:
        RepositoryError: If the file is missing, damaged, a pickle, or no Stable Diffusion 1.x or 2.x; or if its
            tokenizer cannot be had.
        ValueError: If `prediction_type` is impossible.
    """
    path, name = Path(file), os.fspath(file)
    if prediction_type is not None and (scheduler is not None or prediction_type not in PREDICTION_TYPES):
        allowed = "nothing beside `scheduler`" if scheduler is not None else " or ".join(PREDICTION_TYPES)
        raise ValueError(f"prediction_type is {prediction_type!r}; allowed: {allowed}")
    _refuse_pickle(path)
    shapes = read_shapes(path)
    if scheduler is not None:
        prediction_type = scheduler.config.get("prediction_type")
    with safe_open(path, "pt") as opened:
        weights = OriginalWeights(name, opened, shapes, dtype)
        metadata = opened.metadata() or {}
        facts = read_own(name, metadata) or _guess(weights, metadata, prediction_type)
        if scheduler is None:
            chosen = {"prediction_type": prediction_type} if prediction_type else {}
            scheduler = build_scheduler(name, facts["scheduler"] | chosen)
        if tokenizer is None:
            tokenizer = build_tokenizer(name, facts)
        models = weights.load(facts, extract_ema)
    others = {"tokenizer": tokenizer, "scheduler": scheduler, "recommended_call": facts["recommended_call"]}
    return {**models, **others}


def _guess(weights: OriginalWeights, metadata: Mapping[str, str], prediction_type: str | None) -> dict[str, Any]:
    family, configs = configs_from_shapes(weights.file_name, weights.shapes)
    predicted = prediction_type or read_prediction_type(metadata, weights.shapes)
    if predicted is None:
        predicted = weights.guess_prediction_type() if family is SD_2 else "epsilon"
    if family is SD_2 and predicted == "v_prediction":
        configs["unet"]["sample_size"] = 96
    scheduler = scheduler_config(family, predicted)
    return {**configs, "scheduler": scheduler, "tokenizer": None, "recommended_call": {}}


def _refuse_pickle(path: Path) -> None:
    is_pickle = path.suffix in PICKLE_SUFFIXES
    if not is_pickle and path.is_file():
        with path.open("rb") as file:
            is_pickle = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if is_pickle:
        raise RepositoryError(
            f"{path} is a pickle, which can run any code when it is read: only .safetensors are read"
        )


def _write(target: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.new")
    try:
        staged.touch()
        mode = staged.stat().st_mode & 0o777
        save_file(weights, staged, metadata=metadata)
        # safetensors neither flushes its files nor lets others read them.
        staged.chmod(mode)
        flush(staged)
        staged.replace(target)
        flush(target.parent)
    finally:
        staged.unlink(missing_ok=True)
