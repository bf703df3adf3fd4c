"""What this package costs on this machine, beside what the machine can do and what diffusers costs: `make bench`.

    python benchmarks/bench.py [--sections limits,generation] [--repetitions 5] [--output outputs/bench]

Each number is the median of repetitions that take turns with those they are compared with. Results are printed as each
section ends, and stand in OUTPUT/bench.json and OUTPUT/bench.md. It uses the GPU if there is one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Everything is local; without this, each load of a model asks a server.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import diffusers
import transformers

from benchmarks.bench_report import Report, section_as_markdown
from benchmarks.machine import ROOT, default_device, describe_machine
from benchmarks.measurement import Conditions, Row

# In the order in which they run: the limits come first, since others are shares of them.
SECTIONS = {
    "limits": "benchmarks.limits",
    "training": "benchmarks.training_speed",
    "generation": "benchmarks.generation_speed",
    "start-up": "benchmarks.start_up",
    "memory": "benchmarks.peak_memory",
    "data": "benchmarks.data_loading",
    "saving": "benchmarks.saving",
    "counters": "benchmarks.counters",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments (sequence of `str`, *optional*): By default those of this process.

    Returns:
        `int`: Exit code: 0, or 1 if a section failed, whose reason is in the report.
    """
    options = parse(arguments)
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    datasets.disable_progress_bars()
    device = default_device()
    conditions = Conditions(options.repetitions, device, options.size == "tiny")
    report = Report(options.output, describe_machine(device), options.repetitions)
    for name in options.sections:
        started = time.perf_counter()
        try:
            rows = rows_of(name, conditions)
        except Exception as error:  # Minutes are in the other sections.
            report.fail(name, f"{type(error).__name__}: {error}")
            print(f"{name} failed: {type(error).__name__}: {error}\n", file=sys.stderr, flush=True)
            continue
        seconds = time.perf_counter() - started
        report.add(name, rows, seconds)
        print(section_as_markdown(name, rows, seconds), flush=True)
    print(f"written: {options.output / 'bench.json'} and {options.output / 'bench.md'}")
    return 1 if report.failures else 0


def rows_of(section: str, conditions: Conditions) -> list[Row]:
    """Measure a section.

    Args:
        section (`str`): One of `SECTIONS`.
        conditions (`Conditions`): How.
    """
    # Imported now: start-up and memory of one section are no business of another.
    rows: list[Row] = importlib.import_module(SECTIONS[section]).rows(conditions)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; what is impossible there ends the process with exit code 2 and one line.

    Args:
        arguments (sequence of `str`, *optional*): By default those of this process.

    Returns:
        `argparse.Namespace`: With `sections`, `repetitions`, `output` and `size`.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="names, with commas (default: %(default)s)")
    parser.add_argument("--repetitions", default="5", help="of each measurement (default: %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "outputs" / "bench",
        help="folder of the results (default: outputs/bench)",
    )
    parser.add_argument(
        "--size", default="full", help="full, or tiny, which only shows that everything runs (default: full)"
    )
    options = parser.parse_args(arguments)
    try:
        return checked(options)
    except ValueError as error:
        print(f"bench.py: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """Check what was given, and turn it into what it means.

    Args:
        options (`argparse.Namespace`): Words.

    Raises:
        ValueError: If a value is not allowed, or the folder cannot be written.
    """
    given = options.sections.split(",")
    for name in given:
        if name not in SECTIONS:
            raise ValueError(f"--sections {options.sections!r}: {name!r} must be one of {', '.join(SECTIONS)}")
    options.sections = [name for name in SECTIONS if name in given]
    if not options.repetitions.isdecimal() or int(options.repetitions) < 1:
        raise ValueError(f"--repetitions {options.repetitions!r}: must be a whole number of at least 1")
    options.repetitions = int(options.repetitions)
    if options.size not in ("full", "tiny"):
        raise ValueError(f"--size {options.size!r}: must be full or tiny")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--output {str(options.output)!r}: must be a folder that can be written ({error})"
        ) from error
    return options


if __name__ == "__main__":
    sys.exit(main())
