"""Between our classes and the names in a published repository, which are those of diffusers.

`model_index.json` names stock classes, so that everybody loads the repository with plain diffusers; reading it here
gives our classes in their place. What diffusers has no word for stands under `_sd_pipeline`, a key that it ignores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from sd_pipeline.stock_config import FACTS_KEY

# Below it: digests of the weights by their paths (see `manifest.py`).
MANIFEST_KEY = "sha256"

STOCK_CLASS_OF = {
    "SDAutoencoderKL": "AutoencoderKL",
    "SDUNet2DConditionModel": "UNet2DConditionModel",
    "SDDDPMScheduler": "DDPMScheduler",
}
OUR_CLASS_OF = {stock: ours for ours, stock in STOCK_CLASS_OF.items()}

# Components of a stock pipeline that ours has no place for. Stock asks for these keys, null or not.
STOCK_ONLY_COMPONENTS = ("image_encoder",)

# What a stock pipeline may be without.
STOCK_OPTIONAL_COMPONENTS = ("safety_checker", "feature_extractor")

# Of one image processor, the names with and without torchvision, and that of repositories of before 2023.
IMAGE_PROCESSOR, OTHER_IMAGE_PROCESSORS = "CLIPImageProcessor", ("CLIPImageProcessorPil", "CLIPFeatureExtractor")

Entry = list[str | None]
"""Library and class of a component, or two nulls where there is none."""


def is_stock(name: str, component: Any) -> bool:
    """Tell whether diffusers can use a component as it is.

    Args:
        name (`str`): Which one it is.
        component (`Any`): A model, scheduler or tokenizer, or `None`.

    Returns:
        `bool`: Not if there is none that diffusers needs, if a key of ours is not at its default, or for
        `prediction_type="mean"`.
    """
    config = getattr(component, "config", None) or {}
    added = getattr(component, "added_config_defaults", {})
    at_default = all(config.get(key, default) == default for key, default in added.items())
    is_mean = isinstance(config, Mapping) and config.get("prediction_type") == "mean"
    is_absent = component is None and name not in STOCK_OPTIONAL_COMPONENTS
    return not is_absent and at_default and not is_mean


def index_to_stock(
    config: Mapping[str, Any], components: Mapping[str, Entry], is_inpainting_model: bool
) -> dict[str, Any]:
    """Write the configuration of a pipeline of ours as a stock `model_index.json`.

    Args:
        config (`Mapping[str, Any]`): The pipeline's `config`, with its components and its `recommended_call`.
        components (`Mapping[str, Entry]`): Those that stock classes cannot express, as they are here.
        is_inpainting_model (`bool`): Whether the U-Net takes a mask and masked latents, which another class is for.

    Returns:
        `dict[str, Any]`: What goes into the file: no private key (`_name_or_path` would publish a local path) but the
        class, the version of diffusers and our facts.
    """
    index = {key: value for key, value in config.items() if not key.startswith("_") and key != "recommended_call"}
    for name, entry in index.items():
        if _is_entry(entry) and entry[0] == "sd_pipeline":
            index[name] = ["diffusers", STOCK_CLASS_OF[entry[1]]]
        if _is_entry(entry) and entry[1] in OTHER_IMAGE_PROCESSORS:
            index[name] = [entry[0], IMAGE_PROCESSOR]
    index["_class_name"] = "StableDiffusionInpaintPipeline" if is_inpainting_model else "StableDiffusionPipeline"
    index["_diffusers_version"] = config["_diffusers_version"]
    index.update({name: [None, None] for name in STOCK_ONLY_COMPONENTS})
    index["requires_safety_checker"] = index["safety_checker"] != [None, None]
    facts: dict[str, Any] = dict(config.get("recommended_call") or {})
    if components:
        facts["components"] = dict(components)
    if facts:
        index[FACTS_KEY] = facts
    return index


def index_from_stock(index: Mapping[str, Any]) -> dict[str, Any]:
    """Read a `model_index.json` as the configuration of a pipeline of ours.

    Args:
        index (`Mapping[str, Any]`): What is in the file.

    Returns:
        `dict[str, Any]`: With our classes where we have them, and `recommended_call`.

    Raises:
        ValueError: If `_sd_pipeline` is not what `index_to_stock` writes.
    """
    facts = index.get(FACTS_KEY, {})
    components = facts.get("components", {}) if isinstance(facts, dict) else None
    if not isinstance(components, dict) or not all(_is_ours_or_absent(entry) for entry in components.values()):
        raise ValueError(f"model_index.json: `{FACTS_KEY}` is {facts!r}, which this package does not write")
    config = {key: value for key, value in index.items() if key not in (FACTS_KEY, "requires_safety_checker")}
    config.update(components)
    for name, entry in config.items():
        if _is_entry(entry) and entry[0] == "diffusers" and entry[1] in OUR_CLASS_OF:
            config[name] = ["sd_pipeline", OUR_CLASS_OF[entry[1]]]
        if _is_entry(entry) and entry[1] in OTHER_IMAGE_PROCESSORS:
            config[name] = [entry[0], IMAGE_PROCESSOR]
    for name in STOCK_ONLY_COMPONENTS:
        if config.get(name, [None])[0] is None:
            config.pop(name, None)
    config["recommended_call"] = {
        key: value for key, value in facts.items() if key not in ("components", MANIFEST_KEY)
    }
    return config


def complete_components(folder: str | os.PathLike, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Make the components of a freshly saved pipeline readable for everybody.

    The scheduler's class is written as diffusers names it. The text encoder is rewritten in float32 (diffusers loads
    a half-precision one as such, beside a float32 U-Net, and fails) with the prefix `text_model.` before its keys, the
    keys of a safety checker get theirs, and the tokenizer gets `vocab.json` and `merges.txt`: transformers 5 writes
    none of these, and older versions and other tools ask for them.

    Args:
        folder (`str` or `os.PathLike`): Where the pipeline was saved.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): The one that was saved.
    """
    folder = Path(folder)
    for path in folder.glob("*/*config.json"):
        _edit_json(path, _use_stock_class)
    for path in folder.glob("text_encoder/*.safetensors"):
        portable = {_prefixed(name): tensor.float() for name, tensor in load_file(path).items()}
        save_file(portable, path, metadata={"format": "pt"})
    for path in folder.glob("safety_checker/*.safetensors"):
        portable = {_nested(name): tensor for name, tensor in load_file(path).items()}
        save_file(portable, path, metadata={"format": "pt"})
    for path in folder.glob("feature_extractor/preprocessor_config.json"):
        _edit_json(path, lambda config: config.update(image_processor_type=IMAGE_PROCESSOR))
    for path in folder.glob("text_encoder/*.index.json"):
        _edit_json(path, _prefix_weight_map)
    for path in folder.glob("text_encoder/config.json"):
        _edit_json(path, lambda config: config.update(dtype="float32"))
    if tokenizer is not None and (folder / "tokenizer").is_dir():
        tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


def _is_entry(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(one, str) for one in value)


def _is_ours_or_absent(entry: Any) -> bool:
    return entry == [None, None] or (_is_entry(entry) and entry[0] == "sd_pipeline" and entry[1] in STOCK_CLASS_OF)


def _use_stock_class(config: dict[str, Any]) -> None:
    class_name = config.get("_class_name")
    if class_name in STOCK_CLASS_OF:
        config["_class_name"] = STOCK_CLASS_OF[class_name]
    config.pop("_name_or_path", None)


def _prefix_weight_map(index: dict[str, Any]) -> None:
    index["weight_map"] = {_prefixed(name): file for name, file in index["weight_map"].items()}


def _prefixed(name: str) -> str:
    return f"text_model.{name.removeprefix('text_model.')}"


def _nested(name: str) -> str:
    vision = "vision_model."
    return name if name.startswith(vision * 2) or not name.startswith(vision) else vision + name


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
