"""Training states on disk: written aside, flushed, described by a manifest and renamed into place.

A folder `checkpoint-STEP` either is whole or is not there. Its manifest holds the size and SHA-256 of every file, the
step, the configuration and versions; a state is verified against it before it is loaded, and before an older one is
removed. It is made of safetensors and JSON; nothing goes through pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
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


def write_text(content: str, file: Path) -> None:
    """Write a text file so that readers see the old or the new content, never a part, whenever the process dies."""
    temporary = file.with_name(f".{file.name}.partial")
    temporary.write_text(content, encoding="utf-8")
    flush(temporary)
    os.replace(temporary, file)


def write_json(content: Mapping[str, Any], file: Path) -> None:
    """Write a JSON file as `write_text` writes."""
    write_text(json.dumps(content, indent=2) + "\n", file)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_checkpoint(folder: Path, step: int, state: TrainingState, total_limit: int | None) -> Path:
    """Write `folder/checkpoint-STEP`, verify it, then remove the oldest ones beyond `total_limit`.

    Args:
        folder (`Path`): Folder of the stage.
        step (`int`): Updates done.
        state (`TrainingState`): What to write, on the CPU.
        total_limit (`int`, *optional*): How many states up to this one are kept; `None` keeps all.

    Returns:
        `Path`: the new state's folder.

    Raises:
        OSError: If the disk refuses; what was there before still is.
        CheckpointError: If what was written reads otherwise; older states still stand.
        FloatingPointError: If a weight is not finite; nothing is written.
    """
    _check_finite(state)
    target = folder / f"{_PREFIX}{step}"
    aside = folder / f".{target.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        _write_state(aside, step, state)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # Room for whoever has to write down why it failed.
        raise
    shutil.rmtree(target, ignore_errors=True)  # A damaged state of the same step, else it would have been resumed.
    aside.rename(target)
    flush(folder)
    verify_checkpoint(target)
    if total_limit is not None:
        for old in [path for path in list_checkpoints(folder) if _step_of(path) <= step][:-total_limit]:
            # First out of the list, so that no half of it can be taken for a state.
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.removed")))
    return target


def _check_finite(state: TrainingState) -> None:
    for name in state.tensors.keys() & {"model", "ema", "adversary"}:
        for key, tensor in state.tensors[name].items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{key} has weights that are not finite after step {state.values['step']}")


def _write_state(folder: Path, step: int, state: TrainingState) -> None:
    for name, tensors in state.tensors.items():
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
    values = {**state.values, "step": step}
    (folder / "state.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    files = {}
    for file in sorted(folder.iterdir()):
        file.chmod(0o644)
        flush(file)
        files[file.name] = _entry(file)
    _write_manifest(folder, values, files)
    flush(folder)


def _entry(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": _sha256(file)}


def _write_manifest(folder: Path, values: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    manifest = {"step": values["step"], "files": files}
    manifest |= {key: values[key] for key in ("versions", "config") if key in values}
    write_json(manifest, folder / MANIFEST)


def copy_checkpoint(checkpoint: Path, folder: Path, change: Callable[[Any], Any]) -> Path:
    """Copy a state into another folder, without copying its tensors where the disk can share them.

    Args:
        checkpoint (`Path`): The state.
        folder (`Path`): Where the copy goes, under the same name.
        change (callable): Makes of the run's configuration the one that the copy is to have.

    Returns:
        `Path`: The copy.

    Raises:
        OSError: If the state is being removed, or the disk refuses.
    """
    copy = folder / checkpoint.name
    copy.mkdir(parents=True)
    files = read_manifest(checkpoint)
    for name in files:
        share_file(checkpoint / name, copy / name)
    values = json.loads((copy / "state.json").read_text(encoding="utf-8"))
    values["config"] = change(values["config"])
    (copy / "state.json").unlink()  # It is the same file as the one of the original.
    write_json(values, copy / "state.json")
    _write_manifest(copy, values, {**files, "state.json": _entry(copy / "state.json")})
    return copy


def share_file(file: str | Path, copy: str | Path) -> None:
    """Give a file a second place, by a link to its content where the disk has such; so neither may be written to."""
    try:
        os.link(file, copy)
    except FileNotFoundError:
        raise
    except OSError:  # Not every disk has links.
        shutil.copyfile(file, copy)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))


def list_checkpoints(folder: Path) -> list[Path]:
    """List the states in a stage's folder, oldest first."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=_step_of)


def remove_leftovers(folder: Path) -> None:
    """Remove what a crash left half written or half removed in a stage's folder."""
    for path in [*folder.glob(f".{_PREFIX}*.partial"), *folder.glob(f".{_PREFIX}*.removed")]:
        shutil.rmtree(path, ignore_errors=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the newest state that is whole; damaged ones are named in a warning and passed over.

    Raises:
        CheckpointError: If there are states, and all of them are damaged.
    """
    checkpoints = list_checkpoints(folder)
    for checkpoint in reversed(checkpoints):
        try:
            verify_checkpoint(checkpoint)
        except CheckpointError as error:
            warnings.warn(f"passed over a damaged training state: {error}", stacklevel=2)
        else:
            return checkpoint
    if checkpoints:
        raise CheckpointError(
            f"{folder}: all {len(checkpoints)} training states are damaged; move them away to train the stage anew"
        )
    return None


def verify_checkpoint(checkpoint: Path) -> None:
    """Compare every file of a state with its manifest.

    Raises:
        CheckpointError: If the manifest or a file is missing, or a file has another size or content.
    """
    try:
        for name, expected in read_manifest(checkpoint).items():
            file = checkpoint / name
            if not file.is_file():
                raise CheckpointError(f"{checkpoint}: {name} is missing")
            if file.stat().st_size != expected["size"] or _sha256(file) != expected["sha256"]:
                raise CheckpointError(f"{checkpoint}: {name} is damaged (it differs from {MANIFEST})")
    except (OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint}: {MANIFEST} cannot be read ({error.__class__.__name__})") from error


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read what a state is made of: `size` and `sha256` of every file, by name.

    Raises:
        CheckpointError: If that cannot be read, or names what is no file of this folder.
    """
    try:
        files: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        names = files.keys()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint}: {MANIFEST} cannot be read ({error.__class__.__name__})") from error
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{checkpoint}: {MANIFEST} names {name!r}, which is no file beside it")
    return files


def load_checkpoint(checkpoint: Path) -> TrainingState:
    """Verify and read a state.

    Raises:
        CheckpointError: If it is incomplete or damaged.
    """
    verify_checkpoint(checkpoint)
    return read_checkpoint(checkpoint)


def read_checkpoint(checkpoint: Path) -> TrainingState:
    """Read a state that has been verified."""
    tensors = {file.stem: load_file(file) for file in checkpoint.glob("*.safetensors")}
    return TrainingState(tensors, json.loads((checkpoint / "state.json").read_text(encoding="utf-8")))
