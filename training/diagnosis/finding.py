"""A finding with its mend, and a table of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

_WIDTHS = (9, 19, 54, 40)
_NAMED = 3


class Level(Enum):
    """How much a finding matters; an error would end the run, or its result would be wrong."""

    FINE = "fine"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        level (`Level`): How much it matters.
        subject (`str`): What was looked at.
        found (`str`): What was found.
        mend (`str`, defaults to `"nothing to do"`): What to do about it.
    """

    level: Level
    subject: str
    found: str
    mend: str = "nothing to do"


def findings_table(findings: Sequence[Finding]) -> str:
    """Lay findings out as a table, those that matter most at its end.

    Args:
        findings (sequence of `Finding`): In any order.

    Returns:
        `str`: lines of text.
    """
    order = list(Level)
    rows = [("", "what", "found", "what to do")]
    rows += [(f.level.value, f.subject, f.found, f.mend) for f in sorted(findings, key=lambda f: order.index(f.level))]
    return "\n".join(line for row in rows for line in _wrapped(row))


def some_of(names: Sequence[str]) -> str:
    """Name the first of many things, and say how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _wrapped(row: Sequence[str]) -> list[str]:
    cells = [textwrap.wrap(cell, width - 2) or [""] for cell, width in zip(row, _WIDTHS, strict=True)]
    height = max(map(len, cells))
    padded = [[*cell, *[""] * (height - len(cell))] for cell in cells]
    lines = zip(*padded, strict=True)
    return ["".join(part.ljust(width) for part, width in zip(line, _WIDTHS, strict=True)).rstrip() for line in lines]
