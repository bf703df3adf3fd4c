"""Telling a full disk from other errors, whichever library met it."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full_disk(error: BaseException | None) -> bool:
    """Say whether an error, or what caused it, is a disk without space left.

    safetensors raises an error of its own, which tells the number of the system's in its text only.

    Args:
        error (`BaseException`, *optional*): What was raised.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(f"(os error {number})" in str(error) for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
