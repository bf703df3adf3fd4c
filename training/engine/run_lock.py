"""One process at a time in an output folder: a lock that the system releases when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_NAME = ".lock"


class RunFolderError(ValueError):
    """The output folder cannot be used. The message is one line that names it."""


class RunLock:
    """Holds the lock of a run's folder until the process ends.

    A POSIX record lock belongs to its process alone: children, such as workers that load data, do not inherit it, so
    that none of them can keep it after a crash. It works across machines on file systems that support such locks.

    Args:
        output_dir (`Path`): Folder of the run; made if need be.

    Raises:
        RunFolderError: If another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, output_dir: Path) -> None:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(output_dir / _NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(f"output_dir = {str(output_dir)!r}: cannot be written ({error.strerror})") from error
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise RunFolderError(
                f"output_dir = {str(output_dir)!r}: another process is training there; wait for its end, stop it with "
                "SIGTERM or take another output_dir"
            ) from error

    def release(self) -> None:
        """Let others in before the process ends."""
        os.close(self._descriptor)
