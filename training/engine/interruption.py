"""Stopping on a signal: at once while nothing can be lost, otherwise after the step has been finished and saved."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class RunStopped(BaseException):
    """A signal asked the run to stop, and its state has been saved.

    It is raised in whatever runs at the moment, so it must not be an `Exception`, which libraries catch and pass over.
    """


class StopSignal:
    """Within a `with` block, SIGTERM and SIGINT raise `RunStopped`, or are noted where stopping is deferred.

    Launchers may die and leave their children alive, so a process also asks (on Linux) to be sent SIGTERM when its
    parent dies. They may as well pass on a signal that the process group has had already, so a second one changes
    nothing; SIGQUIT (control-backslash) ends a run at once.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._is_deferred = False

    def __enter__(self) -> StopSignal:
        """Start to listen, in the main thread."""
        self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        if sys.platform == "linux" and os.getppid() != 1:
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_first = self.received is None
        self.received = self.received or signal.Signals(number).name
        if is_first and not self._is_deferred:
            self._stop()

    def _stop(self) -> None:
        raise RunStopped(f"stopped by {self.received}; run the same command again to resume")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Note signals within a `with` block, for the code in it to act on; those left over stop the run after it."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        if self.received is not None:
            self._stop()


def outlive_signals(worker: int) -> None:
    """Let a process that loads data live on when its group, or every process of a job, is signalled.

    It ends when the process it works for says so, by the same signal, or dies.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says_so, daemon=True).start()


def _end_when_the_parent_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
