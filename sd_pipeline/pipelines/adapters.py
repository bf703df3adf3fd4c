"""How LoRA adapters are read: from safetensors, unless their reader says otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin

from sd_pipeline.publishing.repository_files import PICKLE_NAMES, PickleError


class SafetensorsLoraMixin(StableDiffusionLoraLoaderMixin):
    """LoRA files load and unload as in diffusers, but pickles are refused."""

    @classmethod
    def lora_state_dict(  # type: ignore[override]
        cls, pretrained_model_name_or_path_or_dict: str | os.PathLike | dict[str, torch.Tensor], **kwargs: Any
    ) -> Any:
        """Read adapters, for `load_lora_weights`.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `os.PathLike` or `dict[str, torch.Tensor]`):
                A file, a folder, a repository on the Hub, or the weights themselves.
            kwargs: As in diffusers: `weight_name`, `subfolder`, `revision` and others. Only `use_safetensors=False`
                reads pickles.

        Returns:
            As in diffusers.

        Raises:
            PickleError: If there is nothing but pickles, or one is asked for (it is a `ValueError`).
        """
        place: Any = pretrained_model_name_or_path_or_dict
        if kwargs.get("use_safetensors") is None:
            kwargs["use_safetensors"] = True
        if kwargs["use_safetensors"] and not isinstance(place, dict):
            _refuse_pickles(Path(place, kwargs.get("subfolder") or ""), kwargs.get("weight_name"))
        return super().lora_state_dict(place, **kwargs)


def _refuse_pickles(place: Path, weight_name: str | None) -> None:
    file = place / weight_name if weight_name is not None else place
    if (weight_name is not None or place.is_file()) and file.suffix != ".safetensors":
        raise PickleError(f"{file} is no safetensors file but a pickle")
    if weight_name is None and place.is_dir() and not any(place.glob("*.safetensors")):
        pickles = sorted(path for name in PICKLE_NAMES for path in place.glob(name))
        if pickles:
            raise PickleError(f"there is no safetensors file in {place}, and {pickles[0].name} is a pickle")
