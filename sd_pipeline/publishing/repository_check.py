"""What is wrong with a repository on disk, said in one line that names the file, before anything is loaded.

The libraries load a file with missing weights silently, and report a truncated one by its byte offsets.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sd_pipeline.publishing.manifest import check_manifest
from sd_pipeline.publishing.repository_files import RepositoryError, read_json, read_shapes, weight_files
from sd_pipeline.publishing.repository_trust import (
    INDEX_FILE,
    check_component,
    check_index,
    check_sizes,
    is_known,
    scheduler_class,
)
from sd_pipeline.publishing.stock_layout import STOCK_ONLY_COMPONENTS

ModelFactory = Callable[[dict[str, Any]], nn.Module]

TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


def check_repository(
    folder: str | os.PathLike,
    components: Mapping[str, ModelFactory | None],
    passed: Collection[str] = (),
    variant: str | None = None,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Check that all files of a pipeline's repository are there and whole, and ask for nothing but to be loaded.

    Args:
        folder (`str` or `os.PathLike`): Where `model_index.json` is.
        components (`Mapping[str, ModelFactory | None]`):
            The components that the pipeline can use. For models, how one is built from its `config.json`.
        passed (collection of `str`, *optional*): Components that the caller brings along: their files do not matter.
        variant (`str`, *optional*): Such as `"fp16"`: the weights of this name are checked where they exist.
        allow_pickle (`bool`, *optional*, defaults to `False`):
            Whether weights may be pickles. Nothing is known of weights then, and they are not looked into.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether components may bring code along.

    Raises:
        RepositoryError: If a file is missing, truncated, no JSON, or lacks weights that its `config.json` asks for; if
            the repository is of another kind of pipeline; or if it is one of the tricks of hostile repositories.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX_FILE)
    entries = check_index(index, str(folder), passed, trust_remote_code)
    used = [name for name in entries if name not in (*STOCK_ONLY_COMPONENTS, *passed)]
    for name in used:
        if not (folder / name).is_dir():
            raise RepositoryError(f"{folder / name} is missing: {INDEX_FILE} lists this component")
        check_component(folder / name, trust_remote_code)
    weights: list[Path] = []
    for name in used:
        model_factory = components[name]
        if name == "tokenizer":
            check_tokenizer(folder / name)
        elif name == "scheduler":
            check_scheduler(folder / name, *entries[name])
        elif model_factory is None:
            read_json(folder / name / "preprocessor_config.json")
        elif not allow_pickle and is_known(name, *entries[name]):
            weights += check_model(folder / name, model_factory, variant)
    check_manifest(folder, index, weights)


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


def check_scheduler(folder: Path, library: str, class_name: str) -> None:
    """Check that a scheduler can be built from its configuration.

    Args:
        folder (`Path`): With `scheduler_config.json`.
        library (`str`): `"diffusers"` or `"sd_pipeline"`; a scheduler of others is not looked into.
        class_name (`str`): Its class.

    Raises:
        RepositoryError: If not.
    """
    config = read_json(folder / "scheduler_config.json")
    found = scheduler_class(library, class_name)
    if found is not None:
        _build(found.from_config, config, folder / "scheduler_config.json")


def check_model(folder: Path, model_factory: ModelFactory, variant: str | None = None) -> list[Path]:
    """Check that a model's weights are those that its configuration asks for.

    Args:
        folder (`Path`): With `config.json` and the weights.
        model_factory (`ModelFactory`): Builds the model from the content of `config.json`.
        variant (`str`, *optional*): See `check_repository`.

    Returns:
        `list[Path]`: The files of weights that will be loaded.

    Raises:
        RepositoryError: If a file is missing, damaged or a pickle, or a weight is missing or of another shape.
    """
    config = read_json(folder / "config.json")
    paths = weight_files(folder, config, variant)
    stored: dict[str, tuple[int, ...]] = {}
    for path in paths:
        stored.update((_canonical(name), shape) for name, shape in read_shapes(path).items())
    check_sizes(folder / "config.json", stored)
    with torch.device("meta"):
        expected = _build(model_factory, config, folder / "config.json").state_dict()
    for name, tensor in expected.items():
        shape = stored.get(_canonical(name))
        if shape is None:
            raise RepositoryError(f"{paths[0]} lacks the weight {name!r}")
        if math.prod(shape) != tensor.numel():
            raise RepositoryError(
                f"{paths[0]}: the weight {name!r} has shape {shape}, but config.json asks for {tuple(tensor.shape)}"
            )
    return paths


def _build(factory: Callable[[dict[str, Any]], Any], config: dict[str, Any], path: Path) -> Any:
    try:
        return factory(config)
    # Of a configuration that anybody may have written, anything can be wrong.
    except Exception as error:
        raise RepositoryError(f"{path}: {str(error).strip() or type(error).__name__}") from error


def _canonical(name: str) -> str:
    # Encoders come with and without a prefix; autoencoders of before 2023 name their attention differently.
    for old, new in ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")):
        name = name.replace(old, new)
    return name.removeprefix("text_model.").replace("vision_model.vision_model.", "vision_model.")
