"""The state of a Hub: repositories, who may write, what goes wrong, and all that was ever sent to it."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.loopback_hub.faults import Schedule, no_faults
from tests.loopback_hub.repositories import Repository

TOKEN = "hf_LoopbackSecretTokenThatNobodyMaySee"
USER = "somebody"


@dataclass(frozen=True)
class Request:
    """A request as it came in; `credentials` is the header that proves who asks, which belongs nowhere else."""

    method: str
    path: str
    headers: Mapping[str, str]
    credentials: str | None
    body: bytes


@dataclass
class Hub:
    """All that a Hub knows.

    Args:
        repositories: By name.
        requests: Every request that came in.
        schedule: What goes wrong.
        tokens: Who may write.
        role: What the Hub says of their tokens, `write` or `read`.
        address: Where it listens.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    schedule: Schedule = no_faults
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    role: str = "write"
    address: str = ""
    lock: Any = field(default_factory=threading.RLock)
    strangers: int = 0

    def move_heads(self) -> None:
        """Commit to every repository as somebody else, beside the model."""
        for repository in self.repositories.values():
            self.strangers += 1
            repository.slip_in("main", f"notes/{self.strangers}.md", b"A note.\n")

    def published(self) -> Iterator[bytes]:
        """Yield everything that was ever sent here: addresses, headers and bodies, without credentials."""
        for request in self.requests:
            yield f"{request.method} {request.path} {dict(request.headers)}".encode()
            yield request.body
            if request.path.endswith("/preupload/main") or "/commit/" in request.path:
                for encoded in re.findall(rb'"(?:content|sample)": ?"([A-Za-z0-9+/=]*)"', request.body):
                    yield base64.b64decode(encoded)


class HubError(Exception):
    """An answer that says no."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
