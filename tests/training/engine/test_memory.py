"""The memory that a process has needed is its own, and it keeps what it will need again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from tests.source_files import ROOT
from training.engine.memory import peak_memory

PEAK = "import torch; from training.engine.memory import peak_memory; print(peak_memory(torch.device('cpu')))"

# Page faults of a step that needs a gigabyte in pieces of 16 MiB, by default and when freed memory is kept.
FAULTS = """
import resource, torch
from training.engine.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [torch.ones(2**22) for _ in range(64)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
by_default = faults()
keep_freed_memory()
faults()
print(by_default, faults())
"""


def test_a_process_that_a_large_one_starts_has_not_needed_what_that_needs():
    large = torch.ones(2**28)  # 1 GiB
    own = peak_memory(torch.device("cpu"))
    process = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, check=True, capture_output=True, text=True)
    assert large.nbytes < own
    assert int(process.stdout) < own - large.nbytes // 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_what_is_freed_is_kept_for_the_next_step():
    process = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, check=True, capture_output=True, text=True)
    by_default, when_kept = map(int, process.stdout.split())
    assert when_kept < by_default / 10
