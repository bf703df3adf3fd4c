"""What is wrong with a repository on disk, said in one line that names the file, before anything is loaded.

The libraries load a file with missing weights silently, and report a truncated one by its byte offsets.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sd_pipeline.publishing.stock_layout import STOCK_ONLY_COMPONENTS

ModelFactory = Callable[[dict[str, Any]], nn.Module]

# Bytes of an element, as safetensors names the types.
ELEMENT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}

TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class RepositoryError(ValueError):
    """A file of a model repository is missing, damaged or not what it should be. The message is one line."""


def check_repository(
    folder: str | os.PathLike,
    components: Mapping[str, ModelFactory | None],
    passed: Collection[str] = (),
    variant: str | None = None,
) -> None:
    """Check that all files of a pipeline's repository are there and whole.

    Args:
        folder (`str` or `os.PathLike`): Where `model_index.json` is.
        components (`Mapping[str, ModelFactory | None]`):
            The components that the pipeline can use. For models, how one is built from its `config.json`.
        passed (collection of `str`, *optional*): Components that the caller brings along: their files do not matter.
        variant (`str`, *optional*): Such as `"fp16"`: the weights of this name are checked where they exist.

    Raises:
        RepositoryError: If a file is missing, truncated, no JSON, or lacks weights that its `config.json` asks for; or
            if the repository is of another kind of pipeline.
    """
    folder = Path(folder)
    index = read_json(folder / "model_index.json")
    for name, entry in index.items():
        if not isinstance(entry, list) or entry[:1] in ([], [None]) or name in (*STOCK_ONLY_COMPONENTS, *passed):
            continue
        if name not in components:
            kind = index.get("_class_name")
            raise RepositoryError(f"{folder}/model_index.json: a {kind} with a `{name}` cannot be used here")
        if not (folder / name).is_dir():
            raise RepositoryError(f"{folder / name} is missing: model_index.json lists this component")
        model_factory = components[name]
        if name == "tokenizer":
            check_tokenizer(folder / name)
        elif model_factory is None:
            stem = "preprocessor" if name == "feature_extractor" else name
            read_json(folder / name / f"{stem}_config.json")
        else:
            check_model(folder / name, model_factory, variant)


def check_tokenizer(folder: Path) -> None:
    """Check the files of a tokenizer.

    Args:
        folder (`Path`): Where they are.

    Raises:
        RepositoryError: If neither `tokenizer.json` nor `vocab.json` with `merges.txt` is there, or one is damaged.
    """
    read_json(folder / "tokenizer_config.json")
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES):
        raise RepositoryError(f"{folder}/tokenizer.json is missing, and so is vocab.json or merges.txt")
    for name in ("tokenizer.json", "vocab.json"):
        if (folder / name).is_file():
            read_json(folder / name)


def check_model(folder: Path, model_factory: ModelFactory, variant: str | None = None) -> None:
    """Check that a model's weights are those that its configuration asks for.

    Args:
        folder (`Path`): With `config.json` and the weights. Weights that are not safetensors are not looked into.
        model_factory (`ModelFactory`): Builds the model from the content of `config.json`.
        variant (`str`, *optional*): See `check_repository`.

    Raises:
        RepositoryError: If a file is missing or damaged, or a weight is missing or of another shape.
    """
    config = read_json(folder / "config.json")
    paths = _weight_files(folder, config, variant)
    if paths is None:
        return
    stored: dict[str, tuple[int, ...]] = {}
    for path in paths:
        stored.update((_canonical(name), shape) for name, shape in read_shapes(path).items())
    try:
        with torch.device("meta"):
            expected = model_factory(config).state_dict()
    except (ValueError, TypeError) as error:
        raise RepositoryError(f"{folder}/config.json: {str(error).splitlines()[0]}") from error
    for name, tensor in expected.items():
        shape = stored.get(_canonical(name))
        if shape is None:
            raise RepositoryError(f"{paths[0]} lacks the weight {name!r}")
        if math.prod(shape) != tensor.numel():
            raise RepositoryError(
                f"{paths[0]}: the weight {name!r} has shape {shape}, but config.json asks for {tuple(tensor.shape)}"
            )


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of the tensors in a safetensors file, and check that the file is as long as they say.

    Args:
        path (`Path`): The file.

    Returns:
        `dict[str, tuple[int, ...]]`: Shape of each tensor.

    Raises:
        RepositoryError: If the file is missing, truncated or no safetensors file.
    """
    if not path.is_file():
        raise RepositoryError(f"{path} is missing")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > size - 8:
                raise RepositoryError(f"{path} is truncated: it has {size} bytes, its header alone {header_size + 8}")
            header = json.loads(file.read(header_size))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
        end = 8 + header_size + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (struct.error, UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise RepositoryError(f"{path} is not a safetensors file, or its beginning is damaged") from error
    if size != end:
        problem = "is truncated" if size < end else "is too long"
        raise RepositoryError(f"{path} {problem}: it has {size} bytes and should have {end}")
    return shapes


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file with an object in it.

    Args:
        path (`Path`): The file.

    Returns:
        `dict[str, Any]`: Its content.

    Raises:
        RepositoryError: If it is missing, no JSON, or something else than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RepositoryError(f"{path} is missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RepositoryError(f"{path} is not valid JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise RepositoryError(f"{path} holds no JSON object")
    return content


def _weight_files(folder: Path, config: Mapping[str, Any], variant: str | None) -> list[Path] | None:
    # The libraries' names: diffusers puts its class into config.json, transformers does not.
    stem = "diffusion_pytorch_model" if "_class_name" in config else "model"
    for suffix in [f".{variant}", ""] if variant else [""]:
        single, index = folder / f"{stem}{suffix}.safetensors", folder / f"{stem}.safetensors.index{suffix}.json"
        if single.is_file():
            return [single]
        if index.is_file():
            return [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
    if any(folder.glob("*.bin")):
        return None
    raise RepositoryError(f"{folder / stem}.safetensors is missing")


def _canonical(name: str) -> str:
    # Encoders come with and without a prefix; autoencoders of before 2023 name their attention differently.
    for old, new in ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")):
        name = name.replace(old, new)
    return name.removeprefix("text_model.").replace("vision_model.vision_model.", "vision_model.")
