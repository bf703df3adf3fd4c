"""The push: a folder becomes one commit on the Hub, or nothing does, whatever happens on the way.

All that is done is computed from what is on the Hub at that moment, so it can be done again after any failure. If an
answer was lost, the next try finds the commit, or files that need no commit.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HFValidationError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from sd_pipeline.publishing.fresh_process import check_in_fresh_process, usable_models
from sd_pipeline.publishing.hub_retry import Backoff, reason
from sd_pipeline.publishing.manifest import file_digest
from sd_pipeline.publishing.staging import publishable_files

# Folders that belong to a model: what is in them and not in the model that is pushed is left from an older one.
_MODEL_FOLDERS = {
    "feature_extractor",
    "image_encoder",
    "safety_checker",
    "scheduler",
    "text_encoder",
    "tokenizer",
    "unet",
    "vae",
}
_NO_TOKEN = "no token of the Hub: log in with `hf auth login`, or set HF_TOKEN"


class PushError(OSError):
    """A folder could not be sent to the Hub. The message is one line, without any token."""


@dataclass(frozen=True)
class Target:
    """Where a model goes on the Hub.

    Args:
        repo_id (`str`): `user/name`.
        revision (`str`, *optional*, defaults to `"main"`): Branch; made if it is not there.
        private (`bool`, *optional*): Whether a new repository is private; as the account prefers if not given.
    """

    repo_id: str
    revision: str = "main"
    private: bool | None = None


def check_target(repo_id: str) -> None:
    """Check what can be known about a push without asking the Hub.

    Args:
        repo_id (`str`): `user/name`.

    Raises:
        ValueError: If the name is impossible, or there is no token.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name on the Hub: {str(error).splitlines()[0]}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} is no name on the Hub: it must be user/name")
    if get_token() is None:
        raise ValueError(_NO_TOKEN)


def check_folder(folder: Path) -> None:
    """Check that a folder may be published: the kinds of its files, and that the models in it are of use elsewhere.

    Args:
        folder (`Path`): A finished model.

    Raises:
        RepositoryError: If not; names the file, or what a new process said.
    """
    for model in usable_models(folder, publishable_files(folder)):
        check_in_fresh_process(model)


def push_folder(
    folder: Path,
    target: Target,
    *,
    commit_message: str = "Upload model",
    publication: str | None = None,
    backoff: Backoff | None = None,
    endpoint: str | None = None,
) -> str:
    """Make a branch hold the model in a folder, by one commit, or none if it holds it already.

    Files of others stay; those in the folders of a model that this one does not have are deleted in the same commit.

    Args:
        folder (`Path`): A finished model, with nothing else in it.
        target ([`Target`]): Where to.
        commit_message (`str`, *optional*, defaults to `"Upload model"`): Title of the commit.
        publication (`str`, *optional*): A name for this push, written into the commit. Given again, for a push whose
            outcome is not known, it finds the commit even below those of others.
        backoff ([`Backoff`], *optional*): How to wait after failures.
        endpoint (`str`, *optional*): Address of the Hub; by default that of `huggingface_hub`.

    Returns:
        `str`: The commit with the model.

    Raises:
        ValueError: If the name is impossible, there is no token, or the folder holds what is not published.
        PushError: If the Hub could not be reached, or refused.
    """
    check_target(target.repo_id)
    files = {path.as_posix(): _LocalFile(folder / path) for path in publishable_files(folder)}
    push = _Push(HfApi(endpoint=endpoint, token=get_token()), target, files, commit_message, publication)
    backoff = backoff or Backoff()
    try:
        backoff.call(push.create_repository)
        return backoff.call(push.commit)
    except PushError:
        raise
    except Exception as error:
        raise PushError(f"{target.repo_id} ({target.revision}) has not been pushed: {reason(error)}") from None


@dataclass(frozen=True)
class _LocalFile:
    path: Path

    def is_in(self, there: RepoFile | None) -> bool:
        """Say whether the Hub has this very content."""
        if there is None or there.size != self.path.stat().st_size:
            return False
        return self.sha256 == there.lfs.sha256 if there.lfs is not None else self.blob_id == there.blob_id

    @cached_property
    def sha256(self) -> str:
        return file_digest(self.path)

    @property
    def blob_id(self) -> str:
        return git_hash(self.path.read_bytes())


class _Push:
    """One push; each of its steps may be taken again."""

    def __init__(
        self, api: HfApi, target: Target, files: Mapping[str, _LocalFile], message: str, publication: str | None
    ) -> None:
        self.api, self.target, self.files, self.message = api, target, files, message
        self.publication = publication or uuid.uuid4().hex

    def create_repository(self) -> None:
        """Make sure that the repository is there, and no more public than asked for."""
        target = self.target
        self.api.create_repo(target.repo_id, private=target.private, exist_ok=True)
        if target.private and not self.api.model_info(target.repo_id).private:
            raise PushError(f"{target.repo_id} is public: a private model is not pushed there")

    def commit(self) -> str:
        """Commit what differs on top of the head, unless it is there."""
        target, head = self.target, self._head()
        entries = self.api.list_repo_tree(target.repo_id, recursive=True, revision=head)
        there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        changed = [path for path, file in self.files.items() if not file.is_in(there.get(path))]
        stale = self._stale(there)
        if not changed and not stale:
            return head
        sent = self._find_commit()
        if sent is not None:
            return sent
        # New each time: they remember what the Hub had when they were uploaded.
        additions = [CommitOperationAdd(path, self.files[path].path) for path in changed]
        self.api.preupload_lfs_files(target.repo_id, additions, revision=target.revision)
        return self.api.create_commit(
            target.repo_id,
            [*additions, *(CommitOperationDelete(path, is_folder=False) for path in stale)],
            commit_message=self.message,
            commit_description=f"Publication {self.publication}",
            revision=target.revision,
            parent_commit=head,
        ).oid

    def _head(self) -> str:
        repo_id, revision = self.target.repo_id, self.target.revision
        try:
            sha = self.api.model_info(repo_id, revision=revision).sha
        except RevisionNotFoundError:
            # From the first commit of all, which has no model in it: a branch holds nothing but what is sent there.
            *_, first = self.api.list_repo_commits(repo_id)
            self.api.create_branch(repo_id, branch=revision, revision=first.commit_id, exist_ok=True)
            sha = self.api.model_info(repo_id, revision=revision).sha
        return str(sha)

    def _stale(self, there: Mapping[str, RepoFile]) -> Sequence[str]:
        folders = _MODEL_FOLDERS | {path.split("/")[0] for path in self.files if "/" in path}
        return [path for path in there if "/" in path and path.split("/")[0] in folders and path not in self.files]

    def _find_commit(self) -> str | None:
        """Find the commit of this push in the history of the branch: others may have gone on from it."""
        commits = self.api.list_repo_commits(self.target.repo_id, revision=self.target.revision)
        return next((commit.commit_id for commit in commits if self.publication in commit.message), None)
