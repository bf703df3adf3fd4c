"""A Hub on this machine that serves the files of one data set, as far as streaming asks for them."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "a" * 40


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": path}


def _tree(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path in (path for path in files if path.startswith(prefix)):
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            name = prefix + "/".join(parts[:depth])
            found[name] = {"type": "directory", "oid": "d", "size": 0, "path": name}
        if recursive or len(parts) == 1:
            found[path] = _entry(path, files[path])
    return list(found.values())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name: str
    files: Mapping[str, bytes]
    ranges: list[str]

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer_json(self, content: Any) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        self._answer_json([_entry(path, self.files[path]) for path in paths if path in self.files])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlparse(self.path)
        path = unquote(url.path)
        tree = re.fullmatch(rf"/api/datasets/{self.name}/tree/[^/]+/?(.*)", path)
        file = re.fullmatch(rf"/datasets/{self.name}/resolve/[^/]+/(.*)", path)
        if re.fullmatch(rf"/api/datasets/{self.name}(/revision/.*)?", path):
            siblings = [{"rfilename": name} for name in self.files]
            self._answer_json({"id": self.name, "sha": COMMIT, "private": False, "siblings": siblings, "tags": []})
        elif tree is not None:
            self._answer_json(_tree(self.files, tree[1], "recursive=true" in url.query.lower()))
        elif file is not None and file[1] in self.files:
            self._answer_file(self.files[file[1]])
        else:
            self._answer(404, headers={"X-Error-Code": "EntryNotFound"})

    def _answer_file(self, content: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range")
        if asked is None:
            self._answer(200, content, headers)
            return
        self.ranges.append(asked)
        first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], headers)


@contextmanager
def loopback_hub(name: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve a data set while the context is open; gives the address, and the ranges that were asked for."""
    ranges: list[str] = []
    handler = type("Handler", (_Handler,), {"name": name, "files": files, "ranges": ranges})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", ranges
    finally:
        server.shutdown()
        server.server_close()
