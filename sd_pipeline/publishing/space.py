"""A Space: the folder from which the Hub serves the web page of a model.

It holds the source of this package, and its shipped model where that is the one to show. A Space installs the rest
from the package index, where nobody has promised that a package of this name is this one.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import distribution, version
from pathlib import Path

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from sd_pipeline.pretrained_models import packaged_model

REQUIREMENTS = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "tokenizers",
    "numpy",
    "pillow",
    "scipy",
    "PyYAML",
    "gradio",
)
"""What the page imports, in the versions that are installed here: those it was seen to work with."""

_APP = '''"""The web page of a model. On the Hub it starts by itself; elsewhere: python app.py"""

from sd_pipeline.demo.page import launch

launch("{model}")
'''

_LICENSE = "LICENSE"

_README = """---
{metadata}---

# {name}

Text to image, image to image, inpainting and outpainting with {model}. `sd-pipeline space` has written this folder.

- `app.py` starts the page; `requirements.txt` is what it needs, in the versions that it was tried with.
- `sd_pipeline/` is the package it is made with, as source: nothing is installed under that name.
- `LICENSE` is that of `app.py` and the package, Apache-2.0. The licence of the model is told on the model's own card.

To look at it on your own machine: `pip install -r requirements.txt` and `python app.py`. To publish it, create a
Gradio Space on the Hub and upload this folder: `hf upload user/{name} . . --repo-type space`.
"""


def write_space(folder: str | os.PathLike, model: str) -> None:
    """Write the folder of a Space.

    Args:
        folder (`str` or `os.PathLike`): A new or empty folder.
        model (`str`): The name of a model on the Hub, or of one that comes with this package.

    Raises:
        ValueError: If the folder is not empty, or the model is neither.
        OSError: If the folder cannot be written, or this installation has lost its licence.
    """
    folder, packaged = Path(folder), packaged_model(model)
    if packaged is None:
        _check_name(model)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; give a new folder")
    package = Path(__file__).parents[1]
    # A wheel holds its models in the package; they come only where they are wanted.
    ignored = shutil.ignore_patterns("__pycache__", "pretrained")
    shutil.copytree(package, folder / "sd_pipeline", ignore=ignored)
    if packaged is not None:
        shutil.copytree(packaged, folder / "sd_pipeline" / model)
    (folder / _LICENSE).write_text(_license(package), encoding="utf-8")
    name = model.rsplit("/", 1)[-1]
    (folder / "app.py").write_text(_APP.format(model=model), encoding="utf-8")
    pins = [f"{name}=={version(name).split('+')[0]}\n" for name in REQUIREMENTS]
    (folder / "requirements.txt").write_text("".join(pins), encoding="utf-8")
    metadata = {
        "title": name,
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "license": "apache-2.0",
        "models": [] if packaged is not None else [model],
    }
    header = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    readme = _README.format(metadata=header, name=name, model=model)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _license(package: Path) -> str:
    """Read the licence that the source goes with: in a checkout and in a Space it lies beside the package."""
    beside = package.parent / _LICENSE
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    installed = distribution("sd_pipeline").read_text(f"licenses/{_LICENSE}")
    if installed is None:
        raise FileNotFoundError(f"{_LICENSE} is not in this installation of sd_pipeline, and a Space has to carry it")
    return installed


def _check_name(model: str) -> None:
    if os.path.isdir(model):
        raise ValueError(
            f"--model {model} is a folder; a Space loads its model from the Hub: publish it, and give its name there"
        )
    try:
        validate_repo_id(model)
    except HFValidationError as error:
        raise ValueError(f"--model {model} is no name of a model on the Hub, such as user/name") from error
