"""What can go wrong with a request, one fault a request."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Args:
        name (`str`): For messages.
        status (`int`, *optional*): Answer with this status in the place of an answer.
        retry_after (`int`, *optional*): Seconds in the header of that answer.
        takes_effect (`bool`): Do first what the request asks for; only the answer is lost.
        moves_head (`bool`): Somebody else commits just before.
    """

    name: str
    status: int | None = None
    retry_after: int | None = None
    takes_effect: bool = False
    moves_head: bool = False


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("408", status=408),
        Fault("429", status=429, retry_after=7),
        Fault("500", status=500),
        Fault("503", status=503),
        Fault("500 after it took effect", status=500, takes_effect=True),
        Fault("dropped before"),
        Fault("dropped after", takes_effect=True),
        Fault("401", status=401),
        Fault("moved head", moves_head=True),
    )
}


class Schedule(Protocol):
    """Says what goes wrong with a request, if anything."""

    def __call__(self, method: str, path: str) -> Fault | None:
        """Choose."""


def no_faults(method: str, path: str) -> Fault | None:
    """A good day."""
    return None


def outage(method: str, path: str) -> Fault | None:
    """Nothing works."""
    return FAULTS["dropped before"]


def fault_at(fault: Fault, pattern: str, times: int = 1) -> Callable[[str, str], Fault | None]:
    """Let the first requests go wrong whose `METHOD path` matches."""
    left = [fault] * times

    def choose(method: str, path: str) -> Fault | None:
        return left.pop() if left and re.search(pattern, f"{method} {path}") else None

    return choose


def random_faults(seed: int, share: float, kinds: Iterable[Fault]) -> Callable[[str, str], Fault | None]:
    """Let a share of all requests go wrong, drawn by a seed."""
    generator, faults = random.Random(seed), list(kinds)
    return lambda method, path: generator.choice(faults) if generator.random() < share else None
