"""One process at a time in a folder, and nobody kept out by the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.training.runs import ROOT, environment
from training.engine.run_lock import RunFolderError, RunLock

HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from training.engine.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
if sys.argv[2] == "with a worker":
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,))
    worker.start()
    print(worker.pid, flush=True)
else:
    print(0, flush=True)
time.sleep(60)
"""


def hold(folder, how: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), how],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("how", ["alone", "with a worker"])
def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path, how):
    """Even if a worker of it, which loads data, lives on."""
    process, worker = hold(tmp_path / "run", how)
    with pytest.raises(RunFolderError, match="another process is training there") as caught:
        RunLock(tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)
    assert "\n" not in str(caught.value)
    process.kill()
    process.communicate()
    RunLock(tmp_path / "run").release()
    if worker:
        os.kill(worker, signal.SIGKILL)


def test_a_released_folder_is_free(tmp_path):
    process, _ = hold(tmp_path, "alone")
    process.terminate()
    process.communicate()
    first = RunLock(tmp_path)
    first.release()
    RunLock(tmp_path).release()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunLock(tmp_path / "file" / "run")
