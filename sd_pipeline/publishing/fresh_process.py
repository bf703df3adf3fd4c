"""A model is loaded in a process of its own before it is published, as a stranger would load it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sd_pipeline.publishing.repository_check import RepositoryError

_PROGRAM = """
import sys
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
pipe("", num_inference_steps=1)
"""


def check_in_fresh_process(folder: Path) -> None:
    """Load a model and draw one picture, in a new process.

    Args:
        folder (`Path`): The finished repository.

    Raises:
        RepositoryError: If that fails; with the last line of what it said.
    """
    command = [sys.executable, "-c", _PROGRAM, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or [f"it ended with {run.returncode}"])[-1]
        raise RepositoryError(f"{folder} does not load in a new process: {last}")
