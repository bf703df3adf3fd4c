"""Asking the Hub again: which failures pass by themselves, and how long to wait for that."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub import get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from sd_pipeline.publishing.staging import TOKEN

PATIENCE_SECONDS = 120.0
"""How long the Hub may say nothing, and for how long it may send us away: the client itself would wait forever."""
CONNECT_SECONDS = 10.0
"""How long it may take to reach it."""

# Besides all from 500: too slow, in conflict with another commit, the head has moved, too early, too often.
_PASSING_STATUSES = (408, 409, 412, 425, 429)
# Wrong input, files that are gone, and a network that the user has switched off.
_LASTING = (ValueError, TypeError, FileNotFoundError, PermissionError, OfflineModeIsEnabled)
_LONGEST_REASON = 300

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """Full jitter: before retry n, wait a random time of at most `first_seconds` 2^n, or as long as the Hub asks.

    Waiting for random times keeps many clients from coming back together (Brooker, "Exponential Backoff And Jitter").

    Args:
        num_retries (`int`, *optional*, defaults to 8): Tries after the first.
        first_seconds (`float`, *optional*, defaults to 1.0): Longest wait before the first retry.
        max_seconds (`float`, *optional*, defaults to 60.0): Longest wait of all, unless the Hub asks for more.
        sleep (callable, *optional*): Waits for so many seconds.
        uniform (callable, *optional*): Draws a number between two.
    """

    num_retries: int = 8
    first_seconds: float = 1.0
    max_seconds: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform

    def call(self, action: Callable[[], T]) -> T:
        """Do something, again after failures that pass. It must be safe to do twice.

        Args:
            action (callable): What to do, without arguments.

        Returns:
            Whatever `action` returns.

        Raises:
            Exception: The last failure, or the first that does not pass by itself.
        """
        for retry in range(self.num_retries):
            # The client is made anew after some failures.
            get_session().timeout = (CONNECT_SECONDS, PATIENCE_SECONDS, PATIENCE_SECONDS, PATIENCE_SECONDS)
            try:
                return action()
            except Exception as error:
                if not passes(error):
                    raise
                self.sleep(self._wait(retry, error))
        return action()

    def _wait(self, retry: int, error: Exception) -> float:
        asked = retry_after(error)
        if asked is not None:
            return min(asked, PATIENCE_SECONDS)
        return self.uniform(0.0, min(self.max_seconds, self.first_seconds * 2**retry))


def passes(error: BaseException) -> bool:
    """Say whether a failure may be over when the same is tried again.

    Args:
        error (`BaseException`): What a call of `huggingface_hub` raised.

    Returns:
        `bool`: For answers of the Hub, whether their status says so; for what never was an answer, such as a dropped
            connection or a page that is no JSON, `True`.
    """
    answer = _answer(error)
    if answer is not None:
        status = answer.response.status_code
        return status in _PASSING_STATUSES or status >= 500
    return isinstance(error, json.JSONDecodeError) or not isinstance(error, _LASTING)


def retry_after(error: BaseException) -> float | None:
    """Read how many seconds the Hub asks to wait.

    Args:
        error (`BaseException`): What a call of `huggingface_hub` raised.

    Returns:
        `float`, *optional*: The header `Retry-After`, where there is one in seconds.
    """
    answer = _answer(error)
    value = "" if answer is None else answer.response.headers.get("Retry-After", "").strip()
    return float(value) if value.isdigit() else None


def reason(error: BaseException) -> str:
    """Say in one line what went wrong, without any token.

    Args:
        error (`BaseException`): What a call of `huggingface_hub` raised.

    Returns:
        `str`: The line.
    """
    answer = _answer(error)
    if answer is not None and answer.response.status_code in (401, 403):
        text = f"the Hub does not accept the token ({answer.response.status_code}); see `hf auth whoami`"
    else:
        *_, cause = _causes(error)
        chosen = error if isinstance(error, ValueError) else answer or cause
        text = " ".join(str(chosen).split())[:_LONGEST_REASON].rstrip(".") or type(chosen).__name__
    token = get_token()
    return TOKEN.sub("hf_***", text.replace(token, "hf_***") if token else text)


def _answer(error: BaseException) -> HfHubHTTPError | None:
    return next((cause for cause in _causes(error) if isinstance(cause, HfHubHTTPError)), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from: uploads wrap theirs."""
    while error is not None:
        yield error
        error = error.__cause__
