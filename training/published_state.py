"""Training states on the Hub: what a run needs to go on elsewhere, and `--resume hub:USER/NAME@BRANCH`.

A published state is a folder `training_state` with the files of the run under their own names, so far as they are
needed, and the configuration and the metrics as JSON. Paths of the machine are in none of them: where the
configuration has one, it has its last part there, and what the resuming run has in its place again afterwards.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any, NamedTuple

import yaml
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from sd_pipeline.publishing.hub_retry import Backoff, reason
from sd_pipeline.publishing.model_card import without_local_paths
from sd_pipeline.publishing.repository import CARD_FILE
from sd_pipeline.publishing.repository_files import read_json
from sd_pipeline.publishing.repository_trust import check_component
from sd_pipeline.publishing.staging import KINDS
from training.config import STAGES, ConfigError, TrainConfig
from training.config_io import check_resumable
from training.engine.checkpointing import (
    copy_checkpoint,
    list_checkpoints,
    share_file,
    verify_checkpoint,
    write_json,
    write_text,
)
from training.engine.run_folder import RunFolder

FOLDER = "training_state"
_CONFIG_FILE = "config.json"
_METRICS_FILE = "metrics.json"
_ASIDE = ".resume.partial"
_TEMPLATE = Path(__file__).parents[1] / "model_cards" / "training_state.md"


class HubState(NamedTuple):
    """Where a training state is."""

    repo_id: str
    revision: str

    def __str__(self) -> str:
        """Write it as `--resume` takes it."""
        return f"hub:{self.repo_id}@{self.revision}"


def export_state(folder: Path, config: TrainConfig, run: RunFolder, checkpoint: Path) -> None:
    """Lay out what goes to the Hub, sharing files with the run.

    Args:
        folder (`Path`): Where to; it is not there yet.
        config (`TrainConfig`): The run, which publishes.
        run (`RunFolder`): Its folder.
        checkpoint (`Path`): The training state.

    Raises:
        OSError: If the state is being removed, or the disk refuses.
    """
    place, stage = folder / FOLDER, checkpoint.parent.name
    copy = copy_checkpoint(checkpoint, place / stage, without_local_paths)
    for earlier in STAGES[: STAGES.index(stage)]:
        record = run.record(earlier)
        if record is not None:
            shutil.copytree(run.result(earlier), place / earlier / "final", copy_function=share_file)
            write_json(record, place / earlier / "finished.json")
    write_json(without_local_paths(dataclasses.asdict(config)), place / _CONFIG_FILE)
    rows = run.metrics_file.read_text(encoding="utf-8").splitlines() if run.metrics_file.is_file() else []
    write_json({"rows": rows}, place / _METRICS_FILE)
    step = copy.name.rpartition("-")[2]
    where = {"repository": str(config.hub.hub_model_id), "revision": config.hub.state_revision}
    card = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(where, stage=stage, step=step)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def split_resume(arguments: Sequence[str]) -> tuple[HubState | None, list[str]]:
    """Take `--resume hub:USER/NAME@BRANCH` out of a command line.

    Args:
        arguments (sequence of `str`): Of `train.py`.

    Returns:
        The place, `None` without one, and the other arguments.

    Raises:
        ConfigError: If it is written otherwise.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--resume", nargs="?", const="")
    options, others = parser.parse_known_args(arguments)
    if options.resume is None:
        return None, others
    repo_id, _, revision = options.resume.removeprefix("hub:").partition("@")
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        repo_id = ""
    if not options.resume.startswith("hub:") or "/" not in repo_id or not revision:
        raise ConfigError(f"--resume {options.resume}: must be hub:USER/NAME@BRANCH")
    return HubState(repo_id, revision), others


def fetch_state(source: HubState, config: TrainConfig, run: RunFolder) -> None:
    """Make a folder the run whose state is on the Hub, unless a run is there already, which then goes on itself.

    Args:
        source (`HubState`): Where the state is.
        config (`TrainConfig`): The run as it is to go on.
        run (`RunFolder`): Its folder.

    Raises:
        ConfigError: If the Hub does not send a state, or that of another run.
        CheckpointError: If it is damaged.
        RepositoryError: If it has in it what no state has.
    """
    if run.config_file.exists():
        return
    aside = run.path / _ASIDE
    aside.mkdir(parents=True, exist_ok=True)  # A download that was broken off goes on.
    try:
        Backoff(config.hub.push_retries).call(partial(_download, source, aside))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"--resume {source}: {reason(error)}") from None
    place, own = aside / FOLDER, dataclasses.asdict(config)
    saved = _with_own_paths(read_json(place / _CONFIG_FILE), own)
    check_resumable(saved, config, str(source))
    for stage in STAGES:
        for file in (place / stage).rglob("config.json"):
            check_component(file.parent)
        for checkpoint in list_checkpoints(place / stage):
            verify_checkpoint(checkpoint)
            shutil.rmtree(run.stage(stage), ignore_errors=True)
            copy_checkpoint(checkpoint, run.stage(stage), partial(_with_own_paths, own=own))
        if (place / stage / "finished.json").is_file():
            shutil.rmtree(run.stage(stage), ignore_errors=True)
            (place / stage).rename(run.stage(stage))
    rows = read_json(place / _METRICS_FILE)["rows"]
    write_text("".join(f"{row}\n" for row in rows), run.metrics_file)
    write_text(yaml.safe_dump(saved, sort_keys=False, allow_unicode=True), run.config_file)
    shutil.rmtree(aside)


def _download(source: HubState, aside: Path) -> None:
    api = HfApi(token=get_token())
    head = api.model_info(source.repo_id, revision=source.revision).sha
    try:
        entries = list(api.list_repo_tree(source.repo_id, FOLDER, recursive=True, revision=head))
    except EntryNotFoundError:
        entries = []
    paths = [entry.path for entry in entries if isinstance(entry, RepoFile)]
    if f"{FOLDER}/{_CONFIG_FILE}" not in paths:
        raise ConfigError(f"--resume {source}: there is no training state, which is a folder {FOLDER}")
    for path in paths:
        parts = PurePosixPath(path).parts
        if (
            not re.fullmatch(r"[\w./-]+", path)
            or ".." in parts
            or parts[0] != FOLDER
            or Path(path).suffix not in KINDS
        ):
            raise ConfigError(f"--resume {source}: {path!r} has no place in a training state")
    api.snapshot_download(source.repo_id, revision=head, allow_patterns=paths, local_dir=aside)
    shutil.rmtree(aside / ".cache", ignore_errors=True)


def _with_own_paths(saved: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Put the resuming run's paths where the configuration on the Hub has the last parts of them."""
    config: dict[str, Any] = {}
    for key, value in saved.items():
        here = own.get(key)
        if isinstance(value, Mapping) and isinstance(here, Mapping):
            config[key] = _with_own_paths(value, here)
        else:
            config[key] = here if value == without_local_paths(here) else value
    return config
