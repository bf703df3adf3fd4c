"""The parser of every command: what is wrong with the arguments becomes one line."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn


class ArgumentParser(argparse.ArgumentParser):
    """Raises where `argparse` prints the usage, which hides the line that matters, and takes no abbreviations.

    Args:
        kwargs: As in `argparse.ArgumentParser`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong.

        Args:
            message (`str`): What `argparse` says.

        Raises:
            ValueError: Always; one line, which points to the help.
        """
        raise ValueError(f"{message} (see {self.prog} --help)")
