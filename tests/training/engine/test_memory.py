"""The memory that a process has needed is its own."""

from __future__ import annotations

import subprocess
import sys

import torch

from tests.source_files import ROOT
from training.engine.memory import peak_memory

PEAK = "import torch; from training.engine.memory import peak_memory; print(peak_memory(torch.device('cpu')))"


def test_a_process_that_a_large_one_starts_has_not_needed_what_that_needs():
    large = torch.ones(2**28)  # 1 GiB
    own = peak_memory(torch.device("cpu"))
    process = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, check=True, capture_output=True, text=True)
    assert large.nbytes < own
    assert int(process.stdout) < own - large.nbytes // 2
