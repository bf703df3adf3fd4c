"""A pickle that tells whether anybody has read it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


class _Canary:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def canary(mark: Path) -> bytes:
    """Make a pickle that makes the folder `mark` when it is read."""
    return pickle.dumps(_Canary(mark))
