"""The results of `bench.py` on disk: JSON for programs and Markdown tables for people, whole after every section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measurement import Row, Spread
from training.engine.checkpointing import write_json, write_text

_HEADER = (
    "| what | unit | this package | diffusers | times as good | remarks |\n| --- | --- | ---: | ---: | ---: | --- |"
)


class Report:
    """Gathers the rows of sections, and writes them down.

    Args:
        folder (`Path`): Where `bench.json` and `bench.md` go; it exists.
        machine (`dict[str, Any]`): Of `describe_machine`.
        repetitions (`int`): How often each thing is measured.
    """

    def __init__(self, folder: Path, machine: dict[str, Any], repetitions: int) -> None:
        self.folder = folder
        self.machine = machine
        self.repetitions = repetitions
        self.rows: list[Row] = []
        self.seconds: dict[str, float] = {}
        self.failures: dict[str, str] = {}

    def add(self, section: str, rows: Sequence[Row], seconds: float) -> None:
        """Take a section in, and write.

        Args:
            section (`str`): Its name.
            rows (sequence of `Row`): What was measured.
            seconds (`float`): How long that took.
        """
        self.rows += rows
        self.seconds[section] = seconds
        self.write()

    def fail(self, section: str, reason: str) -> None:
        """Write down why a section has no rows.

        Args:
            section (`str`): Its name.
            reason (`str`): What went wrong.
        """
        self.failures[section] = " ".join(reason.split())
        self.write()

    def write(self) -> None:
        """Write both files, each at once."""
        content = {
            "machine": self.machine,
            "repetitions": self.repetitions,
            "rows": [asdict(row) for row in self.rows],
            "seconds_of_sections": self.seconds,
            "failures": self.failures,
        }
        write_json(content, self.folder / "bench.json")
        write_text(self.as_markdown(), self.folder / "bench.md")

    def as_markdown(self) -> str:
        """Return everything as Markdown."""
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        head = f"# Benchmarks\n\n{machine}\n\nMedians of {self.repetitions} repetitions, with quartiles.\n\n"
        tables = [
            section_as_markdown(name, [row for row in self.rows if row.section == name], seconds)
            for name, seconds in self.seconds.items()
        ]
        failures = [f"## {name}\n\nfailed: {reason}\n" for name, reason in self.failures.items()]
        return head + "\n".join([*tables, *failures])


def section_as_markdown(name: str, rows: Sequence[Row], seconds: float) -> str:
    """Return a section as a Markdown table.

    Args:
        name (`str`): Of the section.
        rows (sequence of `Row`): What was measured.
        seconds (`float`): How long that took.
    """
    lines = [f"## {name}", "", f"measured in {seconds:.0f} s", "", _HEADER]
    for row in rows:
        cells = [row.name, row.unit, *(_cell(one) for one in (row.spread, row.baseline, row.ratio)), row.note]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return ""
    median, low, high = (_digits(value) for value in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} ({low} to {high})"


def _digits(value: float) -> str:
    """Write a number with three significant digits, and all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
