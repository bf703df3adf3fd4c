"""Memory of a process: how much it has needed, and what it keeps for the next step."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from pathlib import Path

import torch

# Of glibc's malloc.h and malloc.c.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 2**25

ALL_MEMORY = 2**31 - 1
"""As many bytes as glibc can be told to keep."""


def peak_memory(device: torch.device) -> int:
    """Return the most memory that was in use, in bytes: of the accelerator, or of this process on a CPU.

    Args:
        device (`torch.device`): Where this process computes.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        # What `getrusage` tells is at least the peak of the process that started this one, such as a launcher.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):  # Not Linux.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_freed_memory(num_bytes: int = ALL_MEMORY) -> None:
    """Have this process keep the memory that it frees, where the C library is glibc; elsewhere nothing happens.

    Each update needs as much as the last one. By default what is freed goes back to the system when an update is over,
    and comes anew, page by page, filled with zeros, in the next one.

    Args:
        num_bytes (`int`, *optional*): The most that is kept.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_TRIM_THRESHOLD, num_bytes)
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
