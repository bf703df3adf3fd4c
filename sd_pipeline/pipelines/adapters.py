"""How LoRA adapters are read: from safetensors, unless their reader says otherwise."""

from __future__ import annotations

import os
from typing import Any

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin

from sd_pipeline.stock_weights import safetensors_only


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
        return super().lora_state_dict(place, **safetensors_only(place, kwargs))
