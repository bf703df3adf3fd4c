"""What the constructors of models refuse alike."""

from __future__ import annotations


def check_counts(**counts: int) -> None:
    """Check that arguments are counts.

    Args:
        **counts (`int`): By the names of the arguments.

    Raises:
        ValueError: If one is no integer of at least 1.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
