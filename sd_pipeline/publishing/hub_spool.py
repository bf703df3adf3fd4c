"""The spool of a run: what shall be on the Hub, and whether it is.

A push is written down before it is tried, one file a branch, `OUTPUT_DIR/spool/BRANCH.json`. What a crash, an outage
or a refused token leaves undone is thereby known to `sd-pipeline push OUTPUT_DIR`, and to the next run of training.
Files in `OUTPUT_DIR/spool/when_sent` take their places in `OUTPUT_DIR` as soon as nothing waits any more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sd_pipeline.publishing.hub_push import Target, check_folder, push_folder
from sd_pipeline.publishing.hub_retry import Backoff
from sd_pipeline.publishing.manifest import file_digest
from sd_pipeline.publishing.repository_check import RepositoryError, read_json
from sd_pipeline.publishing.staging import publishable_files

WHEN_SENT = Path("spool", "when_sent")
"""Where in a run's folder lies what it is to hold when everything has been sent."""


@dataclass(frozen=True)
class SpooledPush:
    """A push that was asked for.

    Args:
        folder (`str`): The model, relative to the folder of the run.
        repo_id (`str`): `user/name`.
        revision (`str`): Branch.
        private (`bool`, *optional*): Whether a new repository is private.
        commit_message (`str`): Title of the commit.
        digest (`str`): Of the model's files, or whatever else tells this model from others.
        publication (`str`): By which its commit is known.
        commit (`str`, *optional*): The commit, once it is on the Hub.
    """

    folder: str
    repo_id: str
    revision: str
    private: bool | None
    commit_message: str
    digest: str
    publication: str
    commit: str | None = None


def spool_push(output_dir: Path, folder: str, target: Target, commit_message: str, digest: str | None = None) -> None:
    """Write down that a model shall be pushed, unless this very model has been.

    Args:
        output_dir (`Path`): Folder of the run.
        folder (`str`): The model, relative to it.
        target ([`Target`]): Where to.
        commit_message (`str`): Title of the commit.
        digest (`str`, *optional*): What tells this model from others; by default the SHA-256 of all its files, which
            takes time.

    Raises:
        RepositoryError: If the folder holds what is not published.
    """
    digest = digest or _digest(output_dir / folder)
    for old in read_spool(output_dir):
        if (Target(old.repo_id, old.revision, old.private), old.digest) == (target, digest):
            return
    wanted = dataclasses.asdict(target)
    push = SpooledPush(folder, commit_message=commit_message, digest=digest, publication=uuid.uuid4().hex, **wanted)
    _write(output_dir, push)


def read_spool(output_dir: Path) -> list[SpooledPush]:
    """List what was asked for in a run, sent or not.

    Args:
        output_dir (`Path`): Folder of the run.

    Returns:
        `list[SpooledPush]`: One a branch.

    Raises:
        RepositoryError: If a file of the spool is damaged.
    """
    pushes = []
    for file in sorted((output_dir / "spool").glob("*.json")):
        try:
            pushes.append(SpooledPush(**read_json(file)))
        except TypeError as error:
            raise RepositoryError(f"{file} is no push that waits: {error}") from error
    return pushes


def withdraw_push(output_dir: Path, revision: str) -> None:
    """Take back what waits for a branch, if anything does.

    Args:
        output_dir (`Path`): Folder of the run.
        revision (`str`): The branch.
    """
    for push in read_spool(output_dir):
        if push.revision == revision and push.commit is None:
            _file(output_dir, revision).unlink()


def send_spool(output_dir: Path, backoff: Backoff | None = None) -> list[SpooledPush]:
    """Push what waits in a run.

    Args:
        output_dir (`Path`): Folder of the run.
        backoff ([`Backoff`], *optional*): How to wait after failures.

    Returns:
        `list[SpooledPush]`: What is on the Hub now and was not before.

    Raises:
        ValueError: If a model is not fit to be published.
        PushError: If the Hub could not be reached, or refused.
    """
    sent = []
    for push in read_spool(output_dir):
        if push.commit is None:
            folder = output_dir / push.folder
            check_folder(folder)
            commit = push_folder(
                folder,
                Target(push.repo_id, push.revision, push.private),
                commit_message=push.commit_message,
                publication=push.publication,
                backoff=backoff,
            )
            sent.append(dataclasses.replace(push, commit=commit))
            # What was asked for since, while this was on its way, still waits.
            if push in read_spool(output_dir):
                _write(output_dir, sent[-1])
    if all(push.commit is not None for push in read_spool(output_dir)):
        for file in (output_dir / WHEN_SENT).glob("*"):
            os.replace(file, output_dir / file.name)
    return sent


def _file(output_dir: Path, revision: str) -> Path:
    return output_dir / "spool" / f"{quote(revision, safe='')}.json"


def _write(output_dir: Path, push: SpooledPush) -> None:
    file = _file(output_dir, push.revision)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps(dataclasses.asdict(push), indent=2) + "\n", encoding="utf-8")
    os.replace(aside, file)


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in publishable_files(folder):
        total.update(f"{path.as_posix()} {file_digest(folder / path)}\n".encode())
    return total.hexdigest()
