"""The machine that measurements were taken on, in words."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import diffusers
import psutil
import torch

from training.engine.hardware import describe_hardware

ROOT = Path(__file__).parents[1]


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Say what a measurement depends on beside the code.

    Args:
        device (`torch.device`): Where networks compute.

    Returns:
        `dict[str, Any]`: Words and numbers, ready for JSON.
    """
    hardware = describe_hardware(device, num_processes=1)
    description: dict[str, Any] = {
        "processor": hardware["processor"],
        "cores": hardware["num_cores"],
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "device": hardware["accelerator"] or device.type,
        "commit": _commit(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        description |= {
            "device_memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return description


def default_device() -> torch.device:
    """Return where networks compute unless something else is asked for: on the GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _commit() -> str | None:
    """Name the commit of the checkout, with `-dirty` where files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
