"""How what stands alone, a model or an adapter, is loaded: from safetensors, unless its reader says otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from sd_pipeline.pretrained_models import folder_or_name
from sd_pipeline.publishing.repository_files import PICKLE_NAMES, PickleError, read_json, weight_files
from sd_pipeline.publishing.repository_trust import check_configs

if TYPE_CHECKING:
    from typing_extensions import Self

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


class SafetensorsMixin:
    """Load a model of diffusers as `safetensors_folder` allows. Put this before `ModelMixin` among the bases."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load a model, stock or ours.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): As in `safetensors_folder`.
            kwargs: As in diffusers: `subfolder`, `variant`, `dtype`, `revision`, `token` and others. Only
                `use_safetensors=False` reads pickles.

        Returns:
            A model of this class.

        Raises:
            RepositoryError: If it has no weights but pickles, or a file that is missing or damaged (it is a
                `ValueError`, one line, and names the file).
            OSError: If there is no such folder, and it cannot be had from the Hub.
        """
        place = pretrained_model_name_or_path
        if kwargs.get("use_safetensors") is None:
            kwargs["use_safetensors"] = True
        if kwargs["use_safetensors"]:
            hub = {key: kwargs[key] for key in _HUB_ARGUMENTS if kwargs.get(key) is not None}
            place = safetensors_folder(place, kwargs.get("subfolder") or "", kwargs.get("variant"), **hub)
        loaded: Self = super().from_pretrained(place, **kwargs)  # type: ignore[misc]
        return loaded


def safetensors_folder(name: str | os.PathLike, subfolder: str = "", variant: str | None = None, **hub: Any) -> str:
    """Find the folder of a model, and check that reading it reads no pickle and runs no code.

    From the Hub nothing comes but configurations, tokenizers and the safetensors files that are wanted.

    Args:
        name (`str` or `os.PathLike`): A folder, a model that comes with this package, or a repository on the Hub; what
            there is first in this order.
        subfolder (`str`, *optional*, defaults to `""`): Where in it the model is.
        variant (`str`, *optional*): Such as `"fp16"`: files of this name come first.
        hub (`Any`): As `huggingface_hub.snapshot_download` takes it: `revision`, `token`, `cache_dir` and others.

    Returns:
        `str`: A folder that has the model in `subfolder`.

    Raises:
        PickleError: If it has no weights but pickles (it is a `RepositoryError`).
        RepositoryError: If the configuration is missing, damaged or asks for code.
        OSError: If there is no such folder, and it cannot be had from the Hub.
    """
    folder = folder_or_name(name)
    if not os.path.isdir(folder):
        folder = _download(folder, subfolder, variant, hub)
    place = Path(folder, subfolder)
    weight_files(place, read_json(place / "config.json"), variant)
    check_configs(place)
    return folder


def safetensors_only(place: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Have a loader of diffusers that takes weights of its own name, such as adapters, read no pickle.

    Args:
        place (`str`, `os.PathLike` or `dict[str, torch.Tensor]`): A file, a folder, a repository on the Hub, or the
            weights themselves.
        options (`dict[str, Any]`): For the loader: `use_safetensors`, `weight_name`, `subfolder` and others.

    Returns:
        `dict[str, Any]`: `options`, where `use_safetensors` is true unless it was false.

    Raises:
        PickleError: If there is nothing but pickles, or one is asked for, unless `use_safetensors` is false.
    """
    use_safetensors = options.get("use_safetensors") is not False
    if use_safetensors and not isinstance(place, dict):
        _refuse_pickles(Path(place, options.get("subfolder") or ""), options.get("weight_name"))
    return {**options, "use_safetensors": use_safetensors}


def refuse_pickled_file(file: str | os.PathLike) -> None:
    """Let only names of safetensors files pass.

    Args:
        file (`str` or `os.PathLike`): A file, or a link to one; it need not exist.

    Raises:
        PickleError: If its name does not end with `.safetensors`.
    """
    if not os.fspath(file).endswith(".safetensors"):
        raise PickleError(f"{file} is no safetensors file but a pickle")


@contextmanager
def asked_of_hub(name: str) -> Iterator[None]:
    """Say in one line why a repository could not be had, whatever the client raises in the `with` block.

    Args:
        name (`str`): What is asked for.

    Raises:
        OSError: In the place of the client's errors.
    """
    try:
        yield
    except HFValidationError as error:
        raise OSError(f"{name!r} is neither a folder nor the name of a repository on the Hub") from error
    except OSError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise OSError(f"{name!r} is not a folder, and the Hub has not sent it: {reason}") from error


def _download(name: str, subfolder: str, variant: str | None, hub: dict[str, Any]) -> str:
    suffix, shard = f".{variant}" if variant else "", "-?????-of-?????"
    # Of transformers, and of diffusers; shards of a variant have been named in two ways.
    stems = [f"{stem}{part}" for stem in ("model", "diffusion_pytorch_model") for part in (suffix, f"{suffix}{shard}")]
    stems += [f"diffusion_pytorch_model{shard}{suffix}"]
    files = ("*.json", "*.txt", *(f"{stem}.safetensors" for stem in stems))
    wanted = [f"{subfolder}/{file}" if subfolder else file for file in files]
    with asked_of_hub(name):
        folder = snapshot_download(name, allow_patterns=wanted, **hub)
    place = Path(folder, subfolder)
    if (place / "config.json").is_file() and not any(place.glob("*.safetensors")):
        raise PickleError(f"{Path(name, subfolder).as_posix()} has no safetensors, only other weights")
    return folder


def _refuse_pickles(place: Path, weight_name: str | None) -> None:
    file = place / weight_name if weight_name is not None else place
    if weight_name is not None or place.is_file():
        refuse_pickled_file(file)
    if weight_name is None and place.is_dir() and not any(place.glob("*.safetensors")):
        pickles = sorted(path for name in PICKLE_NAMES for path in place.glob(name))
        if pickles:
            raise PickleError(f"there is no safetensors file in {place}, and {pickles[0].name} is a pickle")
