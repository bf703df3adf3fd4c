"""How a segmentation pipeline is loaded from and saved to its repository, on disk and on the Hub.

diffusers has no class for it, so `model_index.json` names those of this package. diffusers itself would refuse them
when they come from the Hub; what is needed is downloaded and checked here, and then loaded from its folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import hf_hub_download

from sd_pipeline.models.segmentation_unet import SegmentationUNet
from sd_pipeline.pipelines.call_arguments import require
from sd_pipeline.pretrained_models import folder_or_name
from sd_pipeline.publishing.manifest import check_manifest, write_manifest
from sd_pipeline.publishing.repository_check import check_model
from sd_pipeline.publishing.repository_files import RepositoryError, read_json
from sd_pipeline.publishing.repository_trust import INDEX_FILE, check_component
from sd_pipeline.publishing.stock_layout import complete_components
from sd_pipeline.stock_config import FACTS_KEY
from sd_pipeline.stock_weights import asked_of_hub, safetensors_folder

if TYPE_CHECKING:
    from typing_extensions import Self

NAMES = {"_class_name": "SegmentationPipeline", "unet": ["sd_pipeline", "SegmentationUNet"]}
"""The classes in `model_index.json`."""

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


class SegmentationRepositoryPipeline(DiffusionPipeline):
    """A pipeline whose one component is the network `unet`. Diffusers does the loading and the saving."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load a segmentation model. Nothing is read but safetensors and configurations, and no code is run.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): A folder that `save_pretrained` wrote, or the name
                of such a repository on the Hub; what there is first in this order.
            kwargs: As in `DiffusionPipeline.from_pretrained`: `dtype`, `variant`, `revision`, `unet` and others.

        Returns:
            A pipeline of this class.

        Raises:
            RepositoryError: If a file is missing or damaged, or the repository is of another pipeline or brings
                pickles or code along (it is a `ValueError`, one line, and names the file).
            ValueError: If `use_safetensors` is false.
            OSError: If there is no such folder, and it cannot be had from the Hub.
        """
        use_safetensors = kwargs.get("use_safetensors")
        allowed = "left out; load pickles with `SegmentationUNet.from_pretrained`, and pass the model as `unet`"
        require(use_safetensors in (None, True), "use_safetensors", use_safetensors, allowed)
        folder = folder_or_name(pretrained_model_name_or_path)
        if not os.path.isdir(folder):
            folder = _download(folder, kwargs)
        index = read_json(Path(folder, INDEX_FILE))
        check_index(index, folder)
        if "unet" not in kwargs:
            check_component(Path(folder, "unet"))
            weights = check_model(Path(folder, "unet"), SegmentationUNet.from_config, kwargs.get("variant"))
            check_manifest(Path(folder), index, weights)
        pipeline = super().from_pretrained(folder, **{**kwargs, "use_safetensors": True})
        pipeline.register_to_config(_name_or_path=os.fspath(pretrained_model_name_or_path))
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the repository.

        Args:
            save_directory (`str` or `os.PathLike`): Where to.
            kwargs: As in `DiffusionPipeline.save_pretrained`: `variant`, `max_shard_size`, `push_to_hub` and others.
        """
        # To push, diffusers needs the text of the path.
        super().save_pretrained(os.fspath(save_directory), **kwargs)

    def to_json_string(self) -> str:
        """Write `model_index.json`, without the path that the model was loaded from.

        Returns:
            `str`: JSON.
        """
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `model_index.json`, the last file of `save_pretrained`, with the digests of the weights.

        Args:
            save_directory (`str` or `os.PathLike`): Where the network has been saved.
            push_to_hub (`bool`, *optional*, defaults to `False`): As in diffusers.
            kwargs: As in diffusers.
        """
        complete_components(save_directory, None)
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        write_manifest(Path(save_directory))


def check_index(index: dict[str, Any], place: str) -> None:
    """Check that a `model_index.json` is of this pipeline, and names no class but the network's.

    Args:
        index (`dict[str, Any]`): What is in it.
        place (`str`): The folder or name of the repository, for messages.

    Raises:
        RepositoryError: If it names something else.
    """
    where = f"{place}/{INDEX_FILE}"
    for key, allowed in NAMES.items():
        if index.get(key) != allowed:
            raise RepositoryError(f"{where}: `{key}` is {index.get(key)!r}; allowed: {allowed!r}")
    facts = index.get(FACTS_KEY, {})
    if not isinstance(facts, dict):
        raise RepositoryError(f"{where}: `{FACTS_KEY}` is {facts!r}, which this package does not write")
    for key, value in index.items():
        # Later versions may write more words and numbers; a list may name a class.
        if isinstance(value, list) and key not in (*NAMES, "class_names"):
            raise RepositoryError(f"{where}: a {NAMES['_class_name']} with a `{key}` cannot be used here")


def _download(name: str, kwargs: dict[str, Any]) -> str:
    hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if kwargs.get(key) is not None}
    with asked_of_hub(name):
        # Alone and first: it tells whether the rest is wanted.
        index = Path(hf_hub_download(name, INDEX_FILE, **hub))
    check_index(read_json(index), name)
    if "unet" not in kwargs:
        # Of the same commit, which its folder is named after.
        safetensors_folder(name, "unet", kwargs.get("variant"), **{**hub, "revision": index.parent.name})
    return os.fspath(index.parent)
