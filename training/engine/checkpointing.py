"""Training states on disk: written aside, flushed, described by a manifest and renamed into place.

A folder `checkpoint-STEP` either is whole or is not there. Its manifest holds the size and SHA-256 of every file, and
a state is verified against it before it is loaded. It is made of safetensors and JSON; nothing goes through pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

MANIFEST = "manifest.json"
_PREFIX = "checkpoint-"


class CheckpointError(ValueError):
    """A training state is missing a file or is damaged. The message is one line that names the folder."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that a training needs to go on as if it had never stopped.

    Args:
        tensors (`dict[str, dict[str, torch.Tensor]]`): Tensors by file ("model", "ema", "optimizer") and name.
        values (`dict[str, Any]`): The step and whatever else is JSON.
    """

    tensors: dict[str, dict[str, torch.Tensor]]
    values: dict[str, Any]


def flush(path: Path) -> None:
    """Ask the disk to have `path` (a file or a folder) for good."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(content: Mapping[str, Any], file: Path) -> None:
    """Write a JSON file so that readers see the old or the new content, never a part."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    flush(temporary)
    os.replace(temporary, file)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_checkpoint(folder: Path, step: int, state: TrainingState, total_limit: int | None) -> Path:
    """Write `folder/checkpoint-STEP`, then remove the oldest ones beyond `total_limit`.

    Args:
        folder (`Path`): Folder of the stage.
        step (`int`): Updates done.
        state (`TrainingState`): What to write.
        total_limit (`int`, *optional*): How many states are kept; `None` keeps all.

    Returns:
        `Path`: the new state's folder.

    Raises:
        OSError: If the disk refuses; what was there before still is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{_PREFIX}{step}"
    aside = folder / f".{target.name}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for name, tensors in state.tensors.items():
        save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, aside / f"{name}.safetensors")
    (aside / "state.json").write_text(json.dumps({"step": step, **state.values}, indent=2), encoding="utf-8")
    files = {}
    for file in sorted(aside.iterdir()):
        file.chmod(0o644)
        flush(file)
        files[file.name] = {"size": file.stat().st_size, "sha256": _sha256(file)}
    write_json({"step": step, "files": files}, aside / MANIFEST)
    flush(aside)
    shutil.rmtree(target, ignore_errors=True)  # A damaged state of the same step, else it would have been resumed.
    aside.rename(target)
    flush(folder)
    if total_limit is not None:
        for old in list_checkpoints(folder)[:-total_limit]:
            shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """List the states in a stage's folder, oldest first."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def verify_checkpoint(checkpoint: Path) -> None:
    """Compare every file of a state with its manifest.

    Raises:
        CheckpointError: If the manifest or a file is missing, or a file has another size or content.
    """
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            file = checkpoint / name
            if not file.is_file():
                raise CheckpointError(f"{checkpoint}: {name} is missing")
            if file.stat().st_size != expected["size"] or _sha256(file) != expected["sha256"]:
                raise CheckpointError(f"{checkpoint}: {name} is damaged (it differs from {MANIFEST})")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint}: {MANIFEST} cannot be read ({error.__class__.__name__})") from error


def load_checkpoint(checkpoint: Path) -> TrainingState:
    """Verify and read a state.

    Raises:
        CheckpointError: If it is incomplete or damaged.
    """
    verify_checkpoint(checkpoint)
    tensors = {file.stem: load_file(file) for file in checkpoint.glob("*.safetensors")}
    return TrainingState(tensors, json.loads((checkpoint / "state.json").read_text(encoding="utf-8")))


def trained_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's state without what is frozen, which whoever builds the model brings along.

    Args:
        model (`torch.nn.Module`): The model.
    """
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def load_trained_tensors(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restore what `trained_tensors` returned.

    Raises:
        CheckpointError: If the state is not one of this model.
    """
    differing = sorted(trained_tensors(model).keys() ^ tensors.keys())
    if differing:
        raise CheckpointError(f"the training state does not fit the model: {differing[0]!r} is in one of them only")
    model.load_state_dict(tensors, strict=False)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as `{"parameter name/state name": tensor}`.

    Args:
        optimizer (`torch.optim.Optimizer`): Its parameters are the model's.
        model (`torch.nn.Module`): Gives the names.
    """
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Restore what `optimizer_tensors` returned.

    Raises:
        CheckpointError: If a state belongs to no parameter of the model.
    """
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, state_name = key.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"optimizer state of {name!r}, which the model does not have")
        parameter = parameters[name]
        optimizer.state[parameter][state_name] = value.to(parameter.device)
