"""The repository of a finished model: written aside, whole, then put in its place at once."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.image_processing_utils import BaseImageProcessor

import sd_pipeline
from sd_pipeline.models.autoencoder_kl import SDAutoencoderKL
from sd_pipeline.models.unet_2d_condition import SDUNet2DConditionModel
from sd_pipeline.pipelines.scheduler_use import Scheduler
from sd_pipeline.publishing.repository_files import RepositoryError, read_json

CARD_FILE = "README.md"


def export_pipeline(
    folder: str | os.PathLike,
    *,
    unet: SDUNet2DConditionModel | UNet2DConditionModel,
    scheduler: Scheduler,
    vae: SDAutoencoderKL | AutoencoderKL | None = None,
    text_encoder: CLIPTextModel | None = None,
    tokenizer: CLIPTokenizer | None = None,
    safety_checker: StableDiffusionSafetyChecker | None = None,
    feature_extractor: BaseImageProcessor | None = None,
    recommended_call: Mapping[str, int | float] | None = None,
    card: str | None = None,
    files: Mapping[str, bytes] | None = None,
    max_megabytes: float | None = None,
) -> None:
    """Write a repository that both `SDPipeline.from_pretrained` and plain diffusers load.

    The folder appears at once, complete and on disk, or not at all: a crash leaves the old one, or, for an instant in
    between, none but both under hidden names beside it.

    Args:
        folder (`str` or `os.PathLike`): Where to. An older repository in its place is replaced.
        unet ([`SDUNet2DConditionModel`]): The trained U-Net.
        scheduler (`Scheduler`): The one to sample with.
        vae ([`SDAutoencoderKL`], *optional*): With its latent statistics folded in; none for a model of pixels.
        text_encoder ([`~transformers.CLIPTextModel`], *optional*): None for an unconditional model.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): With the text encoder.
        safety_checker (`StableDiffusionSafetyChecker`, *optional*): Kept from a model that the training started from.
        feature_extractor ([`~transformers.CLIPImageProcessor`], *optional*): With the safety checker.
        recommended_call (`Mapping[str, int | float]`, *optional*): Defaults of a call; see [`SDPipeline`].
        card (`str`, *optional*): The model card, Markdown with its YAML front matter.
        files (`Mapping[str, bytes]`, *optional*): Further files, such as pictures of the card, by their names.
        max_megabytes (`float`, *optional*): How large all files together may be, in units of 10^6 bytes.

    Raises:
        ValueError: If a weight is not finite, the components do not fit together, the recommended call is impossible,
            or the files are too large.
        RepositoryError: If the folder is there and is something else than such a repository.
    """
    target = Path(folder).absolute()
    refuse_foreign_folder(target)
    models: dict[str, nn.Module | None] = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
    for name, model in models.items():
        if model is not None:
            check_finite(name, model)
    pipeline = sd_pipeline.SDPipeline(
        unet=unet,
        scheduler=scheduler,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        safety_checker=safety_checker,
        feature_extractor=feature_extractor,
        recommended_call=dict(recommended_call or {}),
    )
    staged = target.with_name(f".{target.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        pipeline.save_pretrained(staged)
        if card is not None:
            (staged / CARD_FILE).write_text(card, encoding="utf-8")
        for name, content in (files or {}).items():
            (staged / name).write_bytes(content)
        megabytes = sum(path.stat().st_size for path in staged.rglob("*") if path.is_file()) / 1e6
        if max_megabytes is not None and megabytes > max_megabytes:
            raise ValueError(f"{folder} would take {megabytes:.1f} MB; allowed: at most {max_megabytes:g} MB")
        _settle(staged)
        _put_in_place(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def refuse_foreign_folder(folder: Path) -> None:
    """Check that a folder may be replaced: that it is none, empty, or the repository of a pipeline.

    Args:
        folder (`Path`): Any path.

    Raises:
        RepositoryError: If something else is there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    with contextlib.suppress(RepositoryError, OSError):
        if "unet" in read_json(folder / "model_index.json"):
            return
    raise RepositoryError(f"{folder} exists and is not the repository of a pipeline: it is not overwritten")


def check_finite(name: str, model: nn.Module) -> None:
    """Check that a model has no weight that is NaN or infinite: it would make black pictures, without an error.

    Args:
        name (`str`): For the message.
        model (`nn.Module`): Any.

    Raises:
        ValueError: If it has. The message names the first one.
    """
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: the weight {key!r} is not finite (NaN or infinity): the model is not exported")


def _settle(folder: Path) -> None:
    # safetensors neither flushes its files nor lets others read them.
    readable = (folder / "model_index.json").stat().st_mode & 0o777
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.chmod(readable)
        flush(path)
    flush(folder)


def _put_in_place(staged: Path, target: Path) -> None:
    replaced = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    try:
        staged.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    flush(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on disk.

    Args:
        path (`Path`): The file or folder.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
