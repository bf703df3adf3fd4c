"""What a Hub answers on a good day."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import yaml

from tests.loopback_hub.hub import USER, Hub, HubError, Request
from tests.loopback_hub.repositories import LFS_SUFFIXES, Commit, Repository, now, tree_of


def _json(content: Any, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


class Answers:
    """What is answered on a good day, a method for each address."""

    def __init__(self, hub: Hub, request: Request, query: Mapping[str, list[str]]) -> None:
        self.hub, self.request, self.query = hub, request, query

    @property
    def may_write(self) -> bool:
        return (self.request.credentials or "").removeprefix("Bearer ") in self.hub.tokens

    def _need_token(self) -> None:
        if not self.may_write:
            raise HubError(401, message="Invalid credentials in Authorization header")

    def _repository(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self.may_write):
            raise HubError(404 if self.may_write else 401, "RepoNotFound", "Repository not found")
        return repository

    def _commit_of(self, repo: str, revision: str) -> tuple[Repository, Commit]:
        repository = self._repository(repo)
        commit = repository.find(revision)
        if commit is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def whoami(self) -> Any:
        self._need_token()
        token = {"type": "access_token", "accessToken": {"displayName": "one", "role": self.hub.role}}
        orgs = [{"name": "some-lab"}]
        return _json({"type": "user", "name": USER, "fullname": "Some Body", "orgs": orgs, "auth": token})

    def validate_yaml(self) -> Any:
        content = json.loads(self.request.body)["content"]
        match = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
        if match is None:
            warning = {"message": "empty or missing yaml metadata in repo card"}
            return _json({"errors": [], "warnings": [warning]})
        try:
            metadata = yaml.safe_load(match[1])
        except yaml.YAMLError as error:
            return _json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        is_good = isinstance(metadata, dict) and isinstance(metadata.get("license", ""), str)
        errors = [] if is_good else [{"message": '"license" must be a string'}]
        return _json({"errors": errors, "warnings": []}, 200 if is_good else 400)

    def auth_check(self, repo: str) -> Any:
        self._need_token()
        self._repository(repo)
        return 200, {}, b""

    def create(self) -> Any:
        self._need_token()
        wanted = json.loads(self.request.body)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        address = f"{self.hub.address}/{name}"
        if name in self.hub.repositories:
            error = {"error": "You already created this model repo", "url": address}
            return _json(error, 409)
        is_private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.hub.repositories[name] = Repository(name, is_private)
        return _json({"url": address, "name": name, "id": "0"})

    def info(self, repo: str, revision: str = "main") -> Any:
        repository, commit = self._commit_of(repo, revision)
        return _json(repository.info(commit))

    def refs(self, repo: str) -> Any:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commits[-1].oid}
            for name, commits in self._repository(repo).branches.items()
        ]
        return _json({"branches": branches, "converts": [], "tags": []})

    def commits(self, repo: str, revision: str) -> Any:
        repository, commit = self._commit_of(repo, revision)
        return _json(
            [
                {"id": c.oid, "title": c.title, "message": c.description, "authors": [{"user": USER}], "date": now()}
                for c in repository.history(commit.oid)
            ]
        )

    def tree(self, repo: str, revision: str, folder: str = "") -> Any:
        _, commit = self._commit_of(repo, revision)
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        return _json(tree_of(commit.files, folder, recursive))

    def paths_info(self, repo: str, revision: str) -> Any:
        _, commit = self._commit_of(repo, revision)
        body = self.request.body.decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        return _json([commit.files[path].entry(path) for path in paths if path in commit.files])

    def branch(self, repo: str, branch: str) -> Any:
        self._need_token()
        repository = self._repository(repo)
        if branch in repository.branches:
            raise HubError(409, message="Reference already exists")
        start = json.loads(self.request.body or b"{}").get("startingPoint", "main")
        _, commit = self._commit_of(repo, start)
        repository.branches[branch] = [*reversed(repository.history(commit.oid))]
        return _json({})

    def preupload(self, repo: str, revision: str) -> Any:
        self._need_token()
        _, commit = self._commit_of(repo, revision)
        files = []
        for wanted in json.loads(self.request.body)["files"]:
            path = wanted["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or wanted["size"] > 10_000_000 else "regular"
            there = commit.files.get(path)
            files.append(
                {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None if there is None else there.etag}
            )
        return _json({"files": files})

    def lfs_batch(self, repo: str) -> Any:
        self._need_token()
        repository = self._repository(repo)
        objects = []
        for wanted in json.loads(self.request.body)["objects"]:
            answer: dict[str, Any] = dict(wanted)
            if wanted["oid"] not in repository.uploads:
                answer["actions"] = {"upload": {"href": f"{self.hub.address}/lfs/{repo}/{wanted['oid']}"}}
            objects.append(answer)
        return _json({"transfer": "basic", "objects": objects})

    def lfs_put(self, repo: str, oid: str) -> Any:
        if hashlib.sha256(self.request.body).hexdigest() != oid:
            raise HubError(400, message="the content has another hash")
        self._repository_of_upload(repo).uploads[oid] = self.request.body
        return 200, {}, b""

    def _repository_of_upload(self, repo: str) -> Repository:
        """The address of an upload is signed: it needs no token."""
        return self.hub.repositories[repo]

    def commit(self, repo: str, revision: str) -> Any:
        self._need_token()
        repository = self._repository(repo)
        if revision not in repository.branches:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        lines = [json.loads(line) for line in self.request.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = repository.find(revision)
        if header.get("parentCommit") not in (None, head.oid if head else None):
            raise HubError(412, message="A commit has happened since. Please refresh and try again.")
        operations = [self._operation(repository, line) for line in lines if line["key"] != "header"]
        commit = repository.commit(revision, header["summary"], header.get("description", ""), operations)
        address = f"{self.hub.address}/{repo}/commit/{commit.oid}"
        return _json({"success": True, "commitOid": commit.oid, "commitUrl": address, "hookOutput": ""})

    def _operation(self, repository: Repository, line: Mapping[str, Any]) -> dict[str, Any]:
        value = line["value"]
        path = value["path"]
        if line["key"] == "file":
            return {"kind": "file", "path": path, "content": base64.b64decode(value["content"])}
        if line["key"] == "lfsFile":
            if value["oid"] not in repository.uploads:
                raise HubError(400, message=f"{path} was not uploaded")
            return {"kind": "lfs", "path": path, "content": repository.uploads[value["oid"]]}
        kind = {"deletedFile": "delete", "deletedFolder": "delete_folder"}[line["key"]]
        if kind == "delete" and all(path not in commits[-1].files for commits in repository.branches.values()):
            raise HubError(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
        return {"kind": kind, "path": path}

    def resolve(self, repo: str, revision: str, path: str) -> Any:
        _, commit = self._commit_of(repo, revision)
        file = commit.files.get(path)
        if file is None:
            raise HubError(404, "EntryNotFound", "Entry not found")
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if self.request.method == "HEAD":
            return 200, {**headers, "Content-Length": str(file.size)}, b""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.request.headers.get("Range", ""))
        if asked is None:
            return 200, headers, file.content
        first, last = int(asked[1]), int(asked[2] or file.size - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        return 206, headers, file.content[first : last + 1]
