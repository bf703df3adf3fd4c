"""Signals are noted, and a process learns that its parent died."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from accelerate import Accelerator

from tests.training.runs import ROOT, environment
from training.engine.interruption import StopSignal


@pytest.fixture
def stop_signal():
    with StopSignal() as listening:
        yield listening


def test_the_old_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignal():
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_nothing_received_is_no_reason(stop_signal):
    assert stop_signal.agreed(Accelerator(cpu=True)) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_named(stop_signal, number):
    signal.raise_signal(number)
    assert stop_signal.agreed(Accelerator(cpu=True)) == f"stopped by {number.name}"


def test_a_second_interrupt_does_not_wait(stop_signal):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_repeated_termination_waits(stop_signal, first):
    """Launchers send several; only a person at the keyboard is impatient."""
    for number in (first, signal.SIGTERM, signal.SIGTERM):
        signal.raise_signal(number)
    assert stop_signal.received == "SIGTERM"


CHILD = """
import time
from training.engine.interruption import StopSignal
with StopSignal() as stop_signal:
    print("listening", flush=True)
    for _ in range(600):
        if stop_signal.received:
            break
        time.sleep(0.05)
print(stop_signal.received, flush=True)
"""

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_process_is_told_when_its_parent_dies():
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()) as parent:
        # The child writes to the same pipe, which stays open when the parent is gone.
        assert parent.stdout.readline() == "listening\n"
        parent.kill()
        assert parent.stdout.read() == "SIGTERM\n"
