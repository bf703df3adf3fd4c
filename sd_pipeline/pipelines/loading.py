"""How a pipeline is loaded from and saved to a repository in the stock layout, as the classes of this package."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from huggingface_hub import hf_hub_download
from torch import nn
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel

from sd_pipeline.models.autoencoder_kl import SDAutoencoderKL
from sd_pipeline.models.unet_2d_condition import SDUNet2DConditionModel
from sd_pipeline.pretrained_models import folder_or_name
from sd_pipeline.publishing import stock_layout
from sd_pipeline.publishing.manifest import write_manifest
from sd_pipeline.publishing.repository_check import ModelFactory, check_repository
from sd_pipeline.publishing.repository_files import PickleError, read_json
from sd_pipeline.publishing.repository_trust import INDEX_FILE, check_index
from sd_pipeline.publishing.single_file import load_single_file, save_single_file
from sd_pipeline.stock_weights import asked_of_hub

if TYPE_CHECKING:
    from typing_extensions import Self

COMPONENTS: dict[str, ModelFactory | None] = {
    "vae": SDAutoencoderKL.from_config,
    "text_encoder": lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config)),
    "tokenizer": None,
    "unet": SDUNet2DConditionModel.from_config,
    "scheduler": None,
    "safety_checker": lambda config: StableDiffusionSafetyChecker(CLIPConfig.from_dict(config)),
    "feature_extractor": None,
}
"""How to build each model from its `config.json`."""


class StockRepositoryPipeline(DiffusionPipeline):
    """A pipeline whose repository is one of diffusers, and whose components are ours.

    Nothing but the names differs: diffusers does the loading and the saving.
    """

    @property
    def is_inpainting_model(self) -> bool:
        """Whether the U-Net takes a mask and masked latents beside the noisy ones."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load a Stable Diffusion repository, stock or ours, with our classes.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A folder, the name of a model that comes with this package (`"pretrained/shapes-64"`), or the name of a
                repository on the Hub; what there is first in this order.
            kwargs: As in `DiffusionPipeline.from_pretrained`: `dtype`, `variant`, `revision`, components, and others.
                Only `use_safetensors=False` reads pickles, only `trust_remote_code=True` runs code.

        Returns:
            A pipeline of this class.

        Raises:
            RepositoryError: If a file is missing or damaged, or the repository brings pickles, code or components
                of other kinds along (it is a `ValueError`, one line, and names the file).
            OSError: If there is no such folder, and it cannot be had from the Hub.
        """
        folder = folder_or_name(pretrained_model_name_or_path)
        if kwargs.get("use_safetensors") is None:
            kwargs["use_safetensors"] = True
        if not os.path.isdir(folder):
            folder = _download(cls, folder, kwargs)
        check_repository(
            folder,
            COMPONENTS,
            passed=kwargs.keys(),
            variant=kwargs.get("variant"),
            allow_pickle=not kwargs["use_safetensors"],
            trust_remote_code=bool(kwargs.get("trust_remote_code")),
        )
        pipeline = super().from_pretrained(folder, **kwargs)
        pipeline.register_to_config(_name_or_path=os.fspath(pretrained_model_name_or_path))
        return pipeline

    @classmethod
    def from_single_file(cls, file: str | os.PathLike, **kwargs: Any) -> Self:
        """Load a whole model from one file, in the layout of ComfyUI and A1111.

        Args:
            file (`str` or `os.PathLike`): A `.safetensors` file, ours or of others, of a model that has the structure
                of Stable Diffusion 1.x or 2.x, with 4 or 9 input channels.
            kwargs: As in `load_single_file`: `tokenizer`, `scheduler`, `prediction_type`, `dtype`, `extract_ema`.

        Returns:
            A pipeline of this class.

        Raises:
            RepositoryError: If the file is missing, damaged, a pickle, or lacks weights.
            ValueError: If the model is of another structure.
        """
        return cls(**load_single_file(file, **kwargs))

    def save_single_file(
        self, file: str | os.PathLike, dtype: torch.dtype | None = None, overwrite: bool = False
    ) -> None:
        """Write the whole model into one file that ComfyUI and A1111 read too.

        Args:
            file (`str` or `os.PathLike`): Ends with `.safetensors`.
            dtype (`torch.dtype`, *optional*): Precision of the weights; by default that of the model.
            overwrite (`bool`, *optional*, defaults to `False`): Whether to replace a file that exists.

        Raises:
            ValueError: If the model has another structure than Stable Diffusion 1.x and 2.x, a weight is not finite,
                or the file exists.
        """
        self.refuse_adapters()
        names = ("unet", "vae", "text_encoder", "scheduler", "tokenizer")
        components = {name: getattr(self, name) for name in names}
        call = self.config["recommended_call"]
        save_single_file(file, **components, recommended_call=call, dtype=dtype, overwrite=overwrite)

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Read a `model_index.json`, with our classes in place of the stock ones.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): As in `from_pretrained`.
            kwargs: As in `DiffusionPipeline.load_config`.

        Returns:
            `dict[str, Any]`: Library and class of each component, and `recommended_call`.

        Raises:
            ValueError: If what this package wrote there has been damaged.
        """
        index: Any = super().load_config(folder_or_name(pretrained_model_name_or_path), **kwargs)
        config = stock_layout.index_from_stock(index)
        # Under its stock name diffusers would import that pipeline, to drop the keys that are only in its constructor.
        return {**config, "_class_name": cls.__name__}

    def to_json_string(self) -> str:
        """Write `model_index.json` with stock names.

        Returns:
            `str`: JSON.
        """
        config = json.loads(super().to_json_string())
        own = {name: config[name] for name in self.components if not stock_layout.is_stock(name, getattr(self, name))}
        index = stock_layout.index_to_stock(config, own, self.is_inpainting_model)
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the repository.

        Args:
            save_directory (`str` or `os.PathLike`): Where to.
            kwargs: As in `DiffusionPipeline.save_pretrained`: `variant`, `max_shard_size`, `push_to_hub` and others.

        Raises:
            ValueError: If adapters are loaded, which diffusers would write in a way that nothing reads.
        """
        self.refuse_adapters()
        # To push, diffusers needs the text of the path.
        super().save_pretrained(os.fspath(save_directory), **kwargs)

    def refuse_adapters(self) -> None:
        """Check that no adapters stand beside the weights that are about to be written.

        Raises:
            ValueError: If some do.
        """
        for name, component in self.components.items():
            if isinstance(component, nn.Module) and any("lora_" in key for key, _ in component.named_parameters()):
                raise ValueError(
                    f"`{name}` has LoRA adapters: `fuse_lora()` and then `unload_lora_weights()` writes them into its "
                    "weights, `unload_lora_weights()` alone leaves them out"
                )

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `model_index.json`, the last file of `save_pretrained`, and make the other files readable for all.

        Args:
            save_directory (`str` or `os.PathLike`): Where the components have been saved.
            push_to_hub (`bool`, *optional*, defaults to `False`): As in diffusers.
            kwargs: As in diffusers.
        """
        stock_layout.complete_components(save_directory, self.tokenizer)
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        write_manifest(Path(save_directory))


def _download(pipeline_class: type[DiffusionPipeline], name: str, kwargs: Mapping[str, Any]) -> str:
    hub = {key: kwargs[key] for key in ("cache_dir", "force_download", "token", "revision") if key in kwargs}
    with asked_of_hub(name):
        # Alone and first: it tells whether the rest is wanted.
        index = read_json(
            Path(hf_hub_download(name, INDEX_FILE, **hub, local_files_only=bool(kwargs.get("local_files_only"))))
        )
        check_index(index, name, kwargs.keys(), bool(kwargs.get("trust_remote_code")))
        try:
            return os.fspath(pipeline_class.download(name, **kwargs))
        except OSError as error:
            if "`safetensors` weights" in str(error):
                raise PickleError(f"{name} has weights that are pickles") from error
            raise
