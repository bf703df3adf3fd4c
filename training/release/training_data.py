"""What a model card says of the training data and of their licence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from sd_pipeline.publishing.model_card import without_local_paths

# Description and licence of what comes with this project.
_OWN = {
    "digits": (
        "The handwritten digits of scikit-learn (`sklearn.datasets.load_digits`): the test set of *Optical "
        "Recognition of Handwritten Digits* (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, "
        "[doi:10.24432/C50P49](https://doi.org/10.24432/C50P49)), enlarged; captions such as `a handwritten seven`.",
        "CC BY 4.0, as UCI states it",
    ),
    "shapes": (
        "Scenes of coloured shapes that a program of this project draws, with their captions. Nothing in them was "
        "taken from anybody.",
        "Apache-2.0, like this project",
    ),
    "cells": (
        "Synthetic micrographs of touching cells that a program of this project draws, with the exact place of each "
        "cell. Nothing in them was taken from anybody.",
        "Apache-2.0, like this project",
    ),
    "emoji": (
        "Colour emoji, drawn from a font of the machine that trained, with their Unicode names and keywords.",
        "that of the font: Noto Color Emoji, the usual one on Linux, is under the SIL Open Font License 1.1; the "
        "fonts of macOS and Windows belong to Apple and Microsoft. Names and keywords are under the Unicode License",
    ),
}


def hub_dataset(dataset: str) -> str | None:
    """Find the name that the Hub knows a data set by.

    Args:
        dataset (`str`): `data.dataset` of a configuration.

    Returns:
        `str`, *optional*: `owner/name`; none for what is made here, lies in a folder or comes from another address.
    """
    if dataset in _OWN or Path(dataset).expanduser().exists():
        return None
    name = "/".join(dataset.removeprefix("hf://datasets/").split("@")[0].split("/")[:2])
    if "://" in dataset and not dataset.startswith("hf://datasets/"):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if "/" in name and not name.startswith((".", "/")) else None


def training_data_text(config: Mapping[str, Any], num_images: int, num_held_out: int) -> str:
    """Tell what a model was trained on.

    Args:
        config (`Mapping[str, Any]`): The configuration of the run.
        num_images (`int`): Training images.
        num_held_out (`int`): Images that training did not see, but validation; 0 if there are none.

    Returns:
        `str`: Markdown, some paragraphs. What is not known is said not to be known.
    """
    data, card = config["data"], config.get("card") or {}
    dataset = data["dataset"]
    own_description, own_license = _OWN.get(dataset, (None, None))
    on_hub = hub_dataset(dataset)
    told = without_local_paths(dataset)
    place = f"[{on_hub}](https://huggingface.co/datasets/{on_hub})" if on_hub else f"`{told}`"
    description = card.get("data_description") or own_description
    if description is None:
        description = (
            "Its page says what it is."
            if on_hub
            else "What these images show and where they come from is not recorded"
        )
        if not on_hub:
            description += " (`card.data_description` in the configuration says it)."
    license_ = card.get("data_license") or own_license
    licence = f"Licence of the data: {license_}."
    if license_ is None:
        licence = "The licence of the data is not recorded here" + (
            "; the page of the data set states it, if any does." if on_hub else
            ": it is unknown to this card, and so is whether its makers agree to this use. `card.data_license` in the "
            "configuration states it."
        )  # fmt: skip
    held_out = f"{num_held_out:,} others were held out" if num_held_out else "none were held out"
    began_with = "\n\nThe model that it was trained on from has seen others, which its own card tells."
    size = f"{data['resolution']}x{data['resolution']} pixels"
    of_what = f"captioned images of {place} at {size}"
    if config.get("stages") == ["segmentation"]:
        of_what = f"annotated images of {place}, seen in tiles of {size}"
    return (
        f"{num_images:,} {of_what}; {held_out}. {description}\n\n{licence}{began_with if _base_model(config) else ''}"
    )


def license_text(config: Mapping[str, Any]) -> str:
    """Tell the licence of the model itself.

    Args:
        config (`Mapping[str, Any]`): The configuration of the run.
    """
    name = (config.get("card") or {}).get("license")
    text = (
        "None is stated. Without a licence nobody but the author has the right to use, change or pass on this model; "
        "`card.license` in the configuration, such as `apache-2.0`, states one."
    )
    if name is not None:
        text = f"The weights are under `{name}`, as their author states."
    if (base := _base_model(config)) is not None:
        text += (
            f" `{base}`, from which it was trained on, has a licence of its own, whose terms may bind this one too."
        )
    return text


def _base_model(config: Mapping[str, Any]) -> str | None:
    path = (config.get("diffusion") or {}).get("pretrained_model_name_or_path")
    return None if path is None else str(without_local_paths(path))
