"""The files of a repository, read without trust: each is what its name says, whole, and inside its folder."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Bytes of an element, as safetensors names the types.
ELEMENT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}

# The header of Stable Diffusion's U-Net has 0.1 MB, CLIP's tokenizer.json 2 MB.
MAX_HEADER_BYTES = 20_000_000
MAX_JSON_BYTES = 50_000_000
MAX_MESSAGE = 500

PICKLE_NAMES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")


class RepositoryError(ValueError):
    """A file of a model repository is missing, damaged or not what it should be. The message is one line.

    Args:
        message (`str`): What is wrong. It may quote the repository, so what cannot be printed is replaced.
    """

    def __init__(self, message: str) -> None:
        printable = "".join(letter if letter.isprintable() else " " for letter in message)
        super().__init__(printable if len(printable) <= MAX_MESSAGE else f"{printable[:MAX_MESSAGE]}...")


class MissingFileError(RepositoryError, OSError):
    """A file of a model repository is missing: an `OSError` too, as in the libraries.

    Args:
        path (`str` or `Path`): The file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(f"{path} is missing")


class PickleError(RepositoryError):
    """There are pickles where safetensors should be.

    Args:
        what (`str`): Which, as the beginning of the message.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}, which can run any code when read: only safetensors are read, unless you pass "
            "`use_safetensors=False` (and `save_pretrained` makes them)"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file with an object in it.

    Args:
        path (`Path`): The file.

    Returns:
        `dict[str, Any]`: Its content.

    Raises:
        RepositoryError: If it is missing, far too large, no JSON, something else than an object, or has a NaN in it.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise RepositoryError(f"{path} has more than {MAX_JSON_BYTES // 1_000_000} MB, too much for this file")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_constant)
    except FileNotFoundError:
        raise MissingFileError(path) from None
    except OSError as error:
        raise RepositoryError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError:
        raise RepositoryError(f"{path} is not valid JSON (nested too deeply)") from None
    except RepositoryError:
        raise
    except ValueError as error:
        raise RepositoryError(f"{path} is not valid JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise RepositoryError(f"{path} holds no JSON object")
    return content


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
        raise MissingFileError(path)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > size - 8:
                raise RepositoryError(f"{path} is truncated: it has {size} bytes, its header alone {header_size + 8}")
            if header_size > MAX_HEADER_BYTES:
                raise RepositoryError(f"{path} has a header of {header_size} bytes; allowed: {MAX_HEADER_BYTES}")
            header = json.loads(file.read(header_size))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        shapes = {name: _shape(entry) for name, entry in tensors.items()}
        end = 8 + header_size + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except RepositoryError:
        raise
    except (struct.error, ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise RepositoryError(f"{path} is not a safetensors file, or its beginning is damaged") from error
    if size != end:
        problem = "is truncated" if size < end else "is too long"
        raise RepositoryError(f"{path} {problem}: it has {size} bytes and should have {end}")
    return shapes


def weight_files(folder: Path, config: Mapping[str, Any], variant: str | None = None) -> list[Path]:
    """Find the weights that the libraries would load of a model.

    Args:
        folder (`Path`): Where they are.
        config (`Mapping[str, Any]`): The model's `config.json`.
        variant (`str`, *optional*): Such as `"fp16"`: files of this name come first.

    Returns:
        `list[Path]`: One safetensors file, or all shards that an index names.

    Raises:
        PickleError: If there are none but pickles.
        RepositoryError: If there is nothing at all, or an index names what is no safetensors file beside it.
    """
    shards = {path: _shards(path) for path in sorted(folder.glob("*.index*.json"))}
    # The libraries' names: diffusers puts its class into config.json, transformers does not.
    stem = "diffusion_pytorch_model" if "_class_name" in config else "model"
    for suffix in [f".{variant}", ""] if variant else [""]:
        single, index = folder / f"{stem}{suffix}.safetensors", folder / f"{stem}.safetensors.index{suffix}.json"
        if single.is_file() and index in shards:
            raise RepositoryError(f"{single} and {index.name} are both there: libraries do not agree on which counts")
        if single.is_file():
            return [single]
        if index in shards:
            return shards[index]
        pickles = sorted(path for name in PICKLE_NAMES for path in folder.glob(f"*{suffix}{name[1:]}"))
        if pickles:
            raise PickleError(f"there is no {single}, and {pickles[0].name} is a pickle")
    raise MissingFileError(f"{folder / stem}.safetensors")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise RepositoryError(f"{index}: `weight_map` does not say which file each weight is in")
    for name in weight_map.values():
        if not isinstance(name, str) or "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise RepositoryError(f"{index} names {name!r}; allowed: a .safetensors file in the same folder")
    return [index.with_name(name) for name in sorted(set(weight_map.values()))]


def _constant(name: str) -> float:
    # Schedulers of diffusers write infinities into their configurations.
    if name == "NaN":
        raise ValueError("it has a NaN in it")
    return float(name)


def _shape(entry: Mapping[str, Any]) -> tuple[int, ...]:
    shape, (start, end), size = entry["shape"], entry["data_offsets"], ELEMENT_BYTES.get(entry["dtype"])
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError("a number is none")
    if size is not None and math.prod(shape) * size != end - start:
        raise ValueError("shape and offsets differ")
    return tuple(shape)
