"""The server: the addresses that `huggingface_hub` asks for, and what can go wrong on the way."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from tests.loopback_hub.answers import Answers
from tests.loopback_hub.faults import Fault
from tests.loopback_hub.hub import Hub, HubError, Request

ROUTES: list[tuple[str, re.Pattern[str], str]] = [
    (method, re.compile(pattern + r"\Z"), name)
    for method, pattern, name in (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", r"/api/repos/create", "create"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/auth-check/write", "auth_check"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/refs", "refs"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/commits/(?P<revision>[^/]+)", "commits"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?", "tree"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<branch>[^/]+)", "branch"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )
]


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    # Head and body are written one after the other; the body would wait for the client's late acknowledgement.
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def handle_one(self) -> None:
        url = urlparse(self.path)
        self.query = parse_qs(url.query)
        body = self._read_body()
        headers = {key: value for key, value in self.headers.items() if key.lower() != "authorization"}
        request = Request(self.command, self.path, headers, self.headers.get("Authorization"), body)
        with self.hub.lock:
            self.hub.requests.append(request)
            fault = self.hub.schedule(self.command, unquote(url.path))
            if fault is not None and fault.moves_head:
                self.hub.move_heads()
                fault = None
            if fault is None:
                answer = self._answer_of(request, url.path)
            else:
                if fault.takes_effect:
                    self._answer_of(request, url.path)
                answer = _answer_to(fault)
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._send(*answer)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer_of(self, request: Request, path: str) -> tuple[int, dict[str, str], bytes]:
        method = "GET" if request.method == "HEAD" else request.method
        for allowed, pattern, name in ROUTES:
            match = pattern.match(path)
            if match and allowed == method:
                parts = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                try:
                    return getattr(Answers(self.hub, request, self.query), name)(**parts)
                except HubError as error:
                    headers = {"X-Error-Message": error.message}
                    if error.code:
                        headers["X-Error-Code"] = error.code
                    return error.status, headers, json.dumps({"error": error.message}).encode()
        return 404, {}, b'{"error": "no such address"}'

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _answer_to(fault: Fault) -> tuple[int, dict[str, str], bytes] | None:
    if fault.status is None:
        return None
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    if fault.status == 401:
        return 401, headers, b'{"error": "Invalid credentials in Authorization header"}'
    return fault.status, headers, b"<html>What a gateway says.</html>"


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """Serve a Hub while the context is open."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
