"""Signals stop at once or are noted, launchers may repeat them, and a process learns that its parent died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from torch.utils.data import DataLoader

from tests.training.runs import ROOT, environment
from training.engine.interruption import RunStopped, StopSignal, outlive_signals

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def stop_signal():
    with StopSignal() as listening:
        yield listening


def test_the_old_handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignal():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_where_nothing_can_be_lost_a_signal_stops_at_once(stop_signal, number):
    with pytest.raises(RunStopped, match=f"stopped by {number.name}"):
        signal.raise_signal(number)


def test_no_library_passes_over_a_stop(stop_signal):
    """A parser of arguments did, and went on with half of them."""
    with pytest.raises(RunStopped), suppress(Exception):
        signal.raise_signal(signal.SIGTERM)


def receive(stop_signal: StopSignal, numbers: list[int], noted: list[str | None]) -> None:
    with stop_signal.deferred():
        for number in numbers:
            signal.raise_signal(number)
            noted.append(stop_signal.received)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_deferred_signal_is_noted_and_stops_afterwards(stop_signal, number):
    noted = []
    with pytest.raises(RunStopped, match=number.name):
        receive(stop_signal, [number], noted)
    assert noted == [number.name]


@pytest.mark.parametrize("first", SIGNALS)
def test_a_repeated_signal_does_not_cut_the_saving_short(stop_signal, first):
    """Under torch's launcher, control-C reaches a process twice: through its group, and passed on."""
    noted = []
    with pytest.raises(RunStopped, match=first.name):
        receive(stop_signal, [first, *SIGNALS, *SIGNALS], noted)
    assert noted == [first.name] * 5


def parent_and_number(number: int) -> tuple[int, int]:
    if number == 3:
        for worker_signal in SIGNALS:
            os.kill(os.getpid(), worker_signal)
    return number, os.getpid()


class Numbers:
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[int, int]:
        return parent_and_number(index)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_that_load_data_outlive_signals_to_their_group(context):
    loader = DataLoader(
        Numbers(), batch_size=None, num_workers=1, worker_init_fn=outlive_signals, multiprocessing_context=context
    )
    answers = list(loader)
    assert [number for number, _ in answers] == list(range(8))
    assert {pid for _, pid in answers} != {os.getpid()}
    # Asked by the process they work for, as at its exit, they end.
    loading = iter(loader)
    next(loading)
    (worker,) = loading._workers
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


CHILD = """
import time
from training.engine.interruption import RunStopped, StopSignal
try:
    with StopSignal() as stop_signal:
        print("listening", flush=True)
        time.sleep(60)
except RunStopped as stopped:
    print(stopped, flush=True)
"""

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_process_is_told_when_its_parent_dies():
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()) as parent:
        # The child writes to the same pipe, which stays open when the parent is gone.
        assert parent.stdout.readline() == "listening\n"
        parent.kill()
        assert parent.stdout.read().startswith("stopped by SIGTERM")
