"""What a training ran on, as the machine tells it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def describe_hardware(device: torch.device, num_processes: int) -> dict[str, Any]:
    """Read what this process computes on.

    Args:
        device (`torch.device`): Of the training.
        num_processes (`int`): Of the training, each with a device of its own unless that is the CPU.

    Returns:
        `dict[str, Any]`: `processor` (its model, `None` where the system does not tell it), `num_cores` that this
        process may use, `accelerator` (its model, `None` on a CPU) and `num_processes`.
    """
    accelerator = None
    if device.type == "cuda":
        accelerator = torch.cuda.get_device_name(device)
    elif device.type != "cpu":
        accelerator = device.type.upper()
    return {
        "processor": _processor(),
        "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "accelerator": accelerator,
        "num_processes": num_processes,
    }


def _processor() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # Not Linux.
    return platform.processor() or platform.machine() or None
