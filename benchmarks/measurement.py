"""Timing side by side: interleaved repetitions, their median and their spread, and the rows of the tables."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Conditions:
    """How the measurements of a section are taken.

    Args:
        repetitions (`int`): How often each thing is measured, at least 1.
        device (`torch.device`): Where networks compute.
        is_tiny (`bool`, defaults to `False`): Whether sizes are as small as can be, to see that everything runs.
    """

    repetitions: int
    device: torch.device
    is_tiny: bool = False


@dataclass(frozen=True)
class Spread:
    """What repeated measurements of one thing gave.

    Args:
        median (`float`): Their median.
        low (`float`): The first quartile.
        high (`float`): The third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Summarise measurements.

        Args:
            values (`list[float]`): At least one.
        """
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        section (`str`): The table, such as `"generation"`.
        name (`str`): What was measured.
        unit (`str`): Of the measurement, such as `"images/s"`.
        spread (`Spread`): The measurement.
        baseline (`Spread`, *optional*): The same of what it is compared with, interleaved with it.
        ratio (`Spread`, *optional*): How many times as good as the baseline, from the pairs of repetitions.
        note (`str`): What else there is to say, such as the largest difference of two pictures.
    """

    section: str
    name: str
    unit: str
    spread: Spread
    baseline: Spread | None = None
    ratio: Spread | None = None
    note: str = ""


def interleaved(
    functions: Mapping[str, Callable[[], object]], repetitions: int, num_warm_up: int = 1
) -> dict[str, list[float]]:
    """Time functions in turn, so that what else the machine does meets all of them alike.

    The turns are shuffled: what one leaves behind, such as memory given back to the system, costs the next one.

    Args:
        functions (mapping): What to time, by name.
        repetitions (`int`): How often each is timed.
        num_warm_up (`int`, defaults to 1): How often each is called before.

    Returns:
        `dict[str, list[float]]`: Seconds of each call, in the order of the repetitions.
    """
    for _ in range(num_warm_up):
        for function in functions.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    chance = random.Random(0)
    for _ in range(repetitions):
        for name in chance.sample(list(functions), len(functions)):
            started = time.perf_counter()
            functions[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def synchronised(functions: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, Callable[[], None]]:
    """Have functions end when their work is done: an accelerator is only told what to do, and goes on by itself.

    Args:
        functions (mapping): By name.
        device (`torch.device`): Where they compute.

    Returns:
        `dict[str, Callable]`: The same, each waiting for the device at its end.
    """

    def waiting(function: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            function()
            synchronise(device)

        return run

    return {name: waiting(function) for name, function in functions.items()}


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was told.

    Args:
        device (`torch.device`): A CPU is never behind.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget(device: torch.device) -> None:
    """Let go of compiled code, of graphs and of memory that nothing uses any more.

    Args:
        device (`torch.device`): Where networks compute.
    """
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def rate_row(section: str, name: str, unit: str, amount: float, ours: list[float], other: list[float] | None) -> Row:
    """Make the row of a rate.

    Args:
        section (`str`): The table.
        name (`str`): What was measured.
        unit (`str`): Of the rate.
        amount (`float`): What one call does, in that unit times a second.
        ours (`list[float]`): Seconds of our calls.
        other (`list[float]`, *optional*): Seconds of the calls that are compared with, one for each of ours.
    """
    spread = Spread.of([amount / seconds for seconds in ours])
    if other is None:
        return Row(section, name, unit, spread)
    ratio = Spread.of([theirs / mine for mine, theirs in zip(ours, other, strict=True)])
    return Row(section, name, unit, spread, Spread.of([amount / seconds for seconds in other]), ratio)


def cost_row(
    section: str, name: str, unit: str, ours: list[float], other: list[float] | None = None, note: str = ""
) -> Row:
    """Make the row of something of which less is better: a time, memory, a number of kernels.

    Args:
        section (`str`): The table.
        name (`str`): What was measured.
        unit (`str`): Of the measurements.
        ours (`list[float]`): Ours.
        other (`list[float]`, *optional*): Those that are compared with, one for each of ours.
        note (`str`): What else there is to say.
    """
    spread = Spread.of(ours)
    if other is None:
        return Row(section, name, unit, spread, note=note)
    ratio = Spread.of([theirs / mine for mine, theirs in zip(ours, other, strict=True)])
    return Row(section, name, unit, spread, Spread.of(other), ratio, note)
