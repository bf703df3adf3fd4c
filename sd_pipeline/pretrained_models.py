"""The models that come with this package: their names, and where they lie.

A wheel holds them beside this file, a checkout (and so an editable installation) at its top.
"""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_MODEL = "pretrained/shapes-64"
"""The model that the command line takes unless it is told otherwise."""

PACKAGED_MODELS = (DEFAULT_MODEL, "pretrained/shapes-64-student", "pretrained/emoji-64")
"""What `from_pretrained` finds from any working directory. These names are never looked up on the Hub."""

_PLACES = (Path(__file__).parent, Path(__file__).parents[1])


def packaged_model(name: str | os.PathLike) -> Path | None:
    """Find a model that comes with this package.

    Args:
        name (`str` or `os.PathLike`): What somebody gives to `from_pretrained`.

    Returns:
        `Path`, *optional*: Its folder, a repository that plain diffusers loads too; `None` if no model of this package
        has this name.

    Raises:
        FileNotFoundError: If this package has such a model, but not this installation of it.
    """
    name = Path(name).as_posix()
    if name not in PACKAGED_MODELS:
        return None
    for place in _PLACES:
        if (place / name).is_dir():
            return place / name
    raise FileNotFoundError(
        f"{name} is not in this installation of sd_pipeline ({_PLACES[0]}); give the folder or name of another model"
    )


def folder_or_name(name: str | os.PathLike) -> str:
    """Find a model on this machine; what is not here is a name on the Hub.

    Args:
        name (`str` or `os.PathLike`): A folder, a model that comes with this package, or the name of a repository.

    Returns:
        `str`: The folder, or the name as it was given.

    Raises:
        FileNotFoundError: As in `packaged_model`.
    """
    return os.fspath(name if os.path.isdir(name) else packaged_model(name) or name)
