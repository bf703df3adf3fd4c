"""Stopping on a signal: note it, finish the step, save, end with a code of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

import torch
from accelerate import Accelerator

_PR_SET_PDEATHSIG = 1


class RunStopped(Exception):  # noqa: N818 - it is no error
    """A signal asked the run to stop, and its state has been saved."""


class StopSignal:
    """Within a `with` block, notes SIGTERM and SIGINT; a second SIGINT interrupts at once.

    Launchers may die and leave their children alive, so a process also asks (on Linux) to be sent SIGTERM when its
    parent dies.
    """

    def __init__(self) -> None:
        self.received: str | None = None

    def __enter__(self) -> StopSignal:
        """Start to listen, in the main thread."""
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        if sys.platform == "linux" and os.getppid() != 1:
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def agreed(self, accelerator: Accelerator) -> str | None:
        """Say whether any process was asked to stop; all of them get the same answer at the same step.

        Args:
            accelerator (`accelerate.Accelerator`): The processes.

        Returns:
            `str`, *optional*: one phrase for a person, or `None` to go on.
        """
        reason = f"stopped by {self.received}" if self.received else None
        if accelerator.num_processes == 1:
            return reason
        flag = torch.tensor(float(reason is not None), device=accelerator.device)
        if float(accelerator.reduce(flag, reduction="sum")) == 0:
            return None
        return reason or "stopped by a signal to another process"
