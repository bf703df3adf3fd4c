"""How long it takes until a fresh process has what it needs: imports, and the help of the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from benchmarks.machine import ROOT
from benchmarks.measurement import Conditions, Row, cost_row, interleaved

_NOTHING = "python -c pass"
_DIFFUSERS = "from diffusers import StableDiffusionPipeline"
_OURS = ("import sd_pipeline", "from sd_pipeline import SDPipeline")


def rows(conditions: Conditions) -> list[Row]:
    """Measure the section `start-up`: whole processes, the start of Python included.

    Args:
        conditions (`Conditions`): How.
    """
    commands: dict[str, list[str]] = {
        _NOTHING: [sys.executable, "-c", "pass"],
        **{code: [sys.executable, "-c", code] for code in (*_OURS, _DIFFUSERS)},
        "sd-pipeline --help": [sys.executable, "-m", "sd_pipeline.cli", "--help"],
    }
    if conditions.is_tiny:
        commands = {name: commands[name] for name in (_NOTHING, _OURS[0])}
    functions: dict[str, Callable[[], object]] = {name: partial(_run, command) for name, command in commands.items()}
    # The first round also fills the caches of files.
    seconds = interleaved(functions, conditions.repetitions, num_warm_up=0 if conditions.is_tiny else 1)
    return [
        cost_row(
            "start-up",
            name,
            "s",
            seconds[name],
            seconds.get(_DIFFUSERS) if name in _OURS else None,
            f"compared with `{_DIFFUSERS}`" if name in _OURS and _DIFFUSERS in seconds else "",
        )
        for name in commands
        if name != _DIFFUSERS
    ]


def _run(command: list[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT)
