"""What a Hub keeps: repositories, their branches, and every commit with all its files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from huggingface_hub.utils.sha import git_hash

LFS_SUFFIXES = (".safetensors", ".bin", ".png")


@dataclass(frozen=True)
class StoredFile:
    """A file as it was committed."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git keeps in the place of a large file."""
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {self.size}")
        return "".join(f"{line}\n" for line in lines).encode()

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def blob_id(self) -> str:
        return git_hash(self.pointer if self.is_lfs else self.content)

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id

    def entry(self, path: str) -> dict[str, Any]:
        """Describe the file as `tree` and `paths-info` do."""
        entry: dict[str, Any] = {"type": "file", "oid": self.blob_id, "size": self.size, "path": path}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        return entry


@dataclass(frozen=True)
class Commit:
    """A commit: all files after it."""

    title: str
    description: str
    parent: str | None
    files: Mapping[str, StoredFile]

    @property
    def oid(self) -> str:
        names = "".join(f"{path}:{file.blob_id};" for path, file in sorted(self.files.items()))
        return hashlib.sha1(f"{self.parent}|{self.title}|{self.description}|{names}".encode()).hexdigest()

    @property
    def content(self) -> dict[str, bytes]:
        """The files, without those that the Hub makes."""
        return {path: file.content for path, file in self.files.items() if path != ".gitattributes"}


@dataclass
class Repository:
    """A repository: its branches, oldest commit first, and the large files that were uploaded."""

    name: str
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first = {".gitattributes": StoredFile(b"*.safetensors filter=lfs\n", False)}
        self.branches["main"] = [Commit("initial commit", "", None, first)]

    def find(self, revision: str) -> Commit | None:
        """Find the commit of a branch or a hash."""
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for commits in self.branches.values() for c in commits if c.oid == revision), None)

    def history(self, revision: str) -> list[Commit]:
        """List the commits up to a revision, newest first."""
        last = self.find(revision)
        for commits in self.branches.values():
            if last in commits:
                return commits[commits.index(last) :: -1]
        return []

    def commit(self, branch: str, title: str, description: str, operations: Iterable[Mapping[str, Any]]) -> Commit:
        """Commit decoded operations."""
        parent = self.branches[branch][-1]
        files = dict(parent.files)
        for operation in operations:
            kind, path = operation["kind"], operation["path"]
            if kind == "delete":
                del files[path]
            elif kind == "delete_folder":
                files = {name: file for name, file in files.items() if not name.startswith(path.rstrip("/") + "/")}
            else:
                files[path] = StoredFile(operation["content"], kind == "lfs")
        commit = Commit(title, description, parent.oid, files)
        self.branches[branch].append(commit)
        return commit

    def slip_in(self, branch: str, path: str, content: bytes) -> Commit:
        """Commit as somebody else."""
        return self.commit(branch, f"edit {path}", "", [{"kind": "file", "path": path, "content": content}])

    def info(self, commit: Commit) -> dict[str, Any]:
        """Describe the repository at a commit."""
        return {
            "_id": "0",
            "id": self.name,
            "modelId": self.name,
            "sha": commit.oid,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": ["diffusers"],
            "pipeline_tag": "text-to-image",
            "createdAt": now(),
            "lastModified": now(),
            "siblings": [{"rfilename": path} for path in commit.files],
        }


def now() -> str:
    """Say the time as the Hub does."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def tree_of(files: Mapping[str, StoredFile], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """List files and folders below `folder`."""
    prefix = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path in (path for path in sorted(files) if path.startswith(prefix)):
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            name = prefix + "/".join(parts[:depth])
            found[name] = {
                "type": "directory",
                "oid": hashlib.sha1(name.encode()).hexdigest(),
                "size": 0,
                "path": name,
            }
        if recursive or len(parts) == 1:
            found[path] = files[path].entry(path)
    return list(found.values())
