"""Measurements that are safe as soon as they are known: printed, and in a JSON file that is always whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.engine.checkpointing import write_json


class Findings:
    """What a long measurement has found so far; a later run of the same goes on where it ended.

    Args:
        file (`Path`): JSON, written anew with every finding.
        subject (`dict[str, Any]`): What is measured, where and how; JSON.

    Raises:
        ValueError: If the file holds findings about something else, or no findings.
    """

    def __init__(self, file: Path, subject: dict[str, Any]) -> None:
        self.file = file
        self.subject: dict[str, Any] = json.loads(json.dumps(subject))
        self.found: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        if file.exists():
            self.found = self._read()
        file.parent.mkdir(parents=True, exist_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            subject, found = content["subject"], dict(content["found"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self.file} holds no measurements; give another file") from error
        if subject != self.subject:
            raise ValueError(
                f"{self.file} holds measurements of another machine or of other options; give another file"
            )
        return found

    def measure(self, name: str, measurement: Callable[[], dict[str, Any]]) -> None:
        """Take a measurement, unless it is there; if it fails, write down why, and go on.

        Args:
            name (`str`): Of the measurement.
            measurement (`Callable`): Returns numbers by name. It may `note` what it knows before.
        """
        if name in self.found:
            print(f"{name}: measured before", flush=True)
            return
        try:
            found = measurement()
        except Exception as error:  # Whatever it was, the numbers before and after it count.
            self.failures[name] = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"{name} failed: {self.failures[name]}", flush=True)
            self._write()
            return
        self.note(name, found)

    def note(self, name: str, found: dict[str, Any]) -> None:
        """Print and write.

        Args:
            name (`str`): Of the measurement.
            found (`dict[str, Any]`): Numbers by name; JSON.
        """
        for key, value in found.items():
            print(f"{name}: {key} {value:,.4g}" if isinstance(value, float) else f"{name}: {key} {value}", flush=True)
        self.found[name] = found
        self._write()

    def _write(self) -> None:
        write_json({"subject": self.subject, "found": self.found, "failures": self.failures}, self.file)
