"""`status.json`: how a run stands, and the exit codes, which launchers do not pass on."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

from training.engine.checkpointing import write_json


class RunState(Enum):
    """The states of a run, each with the exit code of `training/train.py`."""

    RUNNING = ("running", None)
    FINISHED = ("finished", 0)
    FAILED = ("failed", 1)
    BAD_INPUT = ("bad_input", 2)
    STOPPED = ("stopped", 75)
    PUSH_PENDING = ("push_pending", 76)

    @property
    def label(self) -> str:
        """The word that stands in `status.json`."""
        return self.value[0]

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process; none while it runs."""
        return self.value[1]


def write_status(output_dir: Path, state: RunState, message: str) -> None:
    """Write `output_dir/status.json`, atomically; over the old one if the disk is full.

    Args:
        output_dir (`Path`): Folder of the run; made if need be.
        state (`RunState`): How the run stands.
        message (`str`): One line for a person.

    Raises:
        OSError: If the folder cannot be written.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    content = {"state": state.label, "exit_code": state.exit_code, "message": message}
    file = output_dir / "status.json"
    try:
        write_json(content, file)
    except OSError:
        if not file.exists():
            raise
        # On a full disk there is no room for a second file, but there is in the place of the first one.
        with file.open("r+", encoding="utf-8") as stream:
            stream.write(json.dumps(content) + "\n")
            stream.truncate()
