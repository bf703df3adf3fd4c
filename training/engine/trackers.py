"""The trackers that accelerate knows by name: TensorBoard, wandb and trackio.

They write under the run's folder, and are told what the run tells them and no more: left to itself, wandb also sends
the command line, the paths of the program and of Python, the host, the user, git and what is printed. Where they send
it, and the token for that, is between them and the environment (`WANDB_MODE`, `wandb login`, `TRACKIO_SPACE_ID`).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image

from training.config import ConfigError
from training.engine.checkpointing import write_text

PROJECT = "sd_pipeline"


def check_installed(names: Sequence[str]) -> None:
    """Refuse a tracker whose package is not there.

    Args:
        names (sequence of `str`): Trackers, which are called as their packages.

    Raises:
        ConfigError: If one is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"report_to = {name!r}: its package is not installed; pip install {name}")


def start_trackers(accelerator: Accelerator, folder: Path, run_name: str, config: Mapping[str, Any]) -> None:
    """Start the trackers of a run, or go on with them. Called by the main process.

    Args:
        accelerator (`accelerate.Accelerator`): Knows their names; it holds them afterwards.
        folder (`Path`): Where they write.
        run_name (`str`): What a person calls the run; a part is added that no other run has.
        config (mapping): The configuration, without anything private.

    Raises:
        ConfigError: If one of them does not start.
    """
    names = [str(name) for name in accelerator.log_with]
    if not names:
        return
    run_id = _run_id(folder / "run_id")
    # trackio reads this when it is imported. A folder that a person has set shows all of their runs together.
    os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))
    arguments = {"trackio": _trackio_arguments(f"{run_name}-{run_id}", config)}
    if "wandb" in names:
        arguments["wandb"] = _wandb_arguments(folder, run_id, run_name, config)
    is_new = not any((folder / PROJECT).glob("events.*"))
    try:
        accelerator.init_trackers(PROJECT, init_kwargs=arguments)
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"report_to = {names}: {error.__class__.__name__}: {reason}") from error
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard" and is_new:
            tracker.writer.add_text("config", f"```\n{yaml.safe_dump(dict(config), sort_keys=False)}```", 0)
        elif tracker.name == "wandb":
            tracker.run.define_metric("*", step_metric="step")
            # A link to a log in the home directory.
            (Path(tracker.run.settings.log_internal).parent / "debug-core.log").unlink(missing_ok=True)


def _run_id(file: Path) -> str:
    """Read what the run is called where runs of one name may meet, or choose it."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(secrets.token_hex(4), file)
    return file.read_text(encoding="utf-8")


def _wandb_arguments(folder: Path, run_id: str, run_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    import wandb

    logging.getLogger("wandb").setLevel(logging.WARNING)  # below that, its log tells paths
    settings = wandb.Settings(
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
        disable_git=True,
        disable_code=True,
        save_code=False,
        console="off",
        host="",
        program="",
        allow_val_change=True,
    )
    # `mode` comes from WANDB_MODE.
    names = {"id": run_id, "name": f"{run_name}-{run_id}", "resume": "allow"}
    return {**names, "dir": str(folder), "config": dict(config), "settings": settings}


def _trackio_arguments(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    quiet = {"auto_log_cpu": False, "auto_log_gpu": False, "embed": False}
    return {"name": name, "resume": "allow", "config": dict(config), **quiet}


def track_values(trackers: Sequence[GeneralTracker], values: Mapping[str, Any], step: int) -> None:
    """Give numbers to every tracker.

    Args:
        trackers (sequence of `accelerate.tracking.GeneralTracker`): That run.
        values (mapping): By name.
        step (`int`): Of the stage.
    """
    for tracker in trackers:
        if tracker.name == "wandb":
            # Its own step only rises, and a stage begins anew.
            tracker.log({**values, "step": step})
        else:
            tracker.log(dict(values), step=step)


def track_picture(trackers: Sequence[GeneralTracker], name: str, image: Image.Image, step: int) -> None:
    """Give a picture to every tracker, in its own terms.

    Args:
        trackers (sequence of `accelerate.tracking.GeneralTracker`): That run.
        name (`str`): Its name.
        image (`PIL.Image.Image`): The picture.
        step (`int`): Of the stage.
    """
    for tracker in trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: np.asarray(image.convert("RGB"))[None]}, step=step, dataformats="NHWC")
            tracker.writer.flush()
        else:
            module = importlib.import_module(tracker.name)
            track_values([tracker], {name: module.Image(image)}, step)
