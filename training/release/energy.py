"""How much energy a training took, and how much carbon dioxide that made: an estimate, from what is known afterwards.

E = t (n_cores P_core + n_accelerators P_accelerator) PUE,   CO2 = E intensity

(Lannelongue, Grealey & Inouye 2021, "Green Algorithms: Quantifying the Carbon Footprint of Computation", Advanced
Science 8, 2100707, without its term of memory. All cores of the machine and all accelerators count as fully busy.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WATTS_A_CORE = 12.0
"""Of a processor that is not known better (Green Algorithms)."""

WATTS_OF_ACCELERATORS = {"H100": 700, "H200": 700, "A100": 400, "V100": 300, "L4": 72, "T4": 70}
"""Highest power of a board, from its data sheet."""

WATTS_OF_ANY_ACCELERATOR = 200.0
"""Of one that is not known better (Green Algorithms)."""

POWER_USAGE_EFFECTIVENESS = 1.67
"""Energy of a data centre for each unit of its computers, where the place is not known (Green Algorithms)."""

GRAMS_A_KILOWATT_HOUR = 475.0
"""CO2 equivalent of electricity, the world's average in 2018 (International Energy Agency)."""


@dataclass(frozen=True)
class Consumption:
    """Energy and what comes of it.

    Args:
        kilowatt_hours (`float`): Energy.
        grams (`float`): CO2 equivalent.
    """

    kilowatt_hours: float
    grams: float


def watts(hardware: Mapping[str, Any]) -> float:
    """Estimate the power of a machine that trains.

    Args:
        hardware (`Mapping[str, Any]`): As `training.engine.hardware.describe_hardware` tells it.
    """
    power = hardware["num_cores"] * WATTS_A_CORE
    if hardware["accelerator"] is not None:
        words = hardware["accelerator"].replace("-", " ").split()
        known = [of_board for name, of_board in WATTS_OF_ACCELERATORS.items() if name in words]
        power += hardware["num_processes"] * (known[0] if known else WATTS_OF_ANY_ACCELERATOR)
    return power


def consumption(stages: Sequence[Mapping[str, Any]]) -> Consumption | None:
    """Estimate what the training of some stages took.

    Args:
        stages (sequence of `Mapping[str, Any]`): Records of a run, with `seconds` and `hardware`.

    Returns:
        `Consumption`, *optional*: None if the hardware of a stage was not recorded.
    """
    if not stages or any("hardware" not in stage for stage in stages):
        return None
    joules = sum(stage["seconds"] * watts(stage["hardware"]) for stage in stages) * POWER_USAGE_EFFECTIVENESS
    kilowatt_hours = joules / 3.6e6
    return Consumption(kilowatt_hours, kilowatt_hours * GRAMS_A_KILOWATT_HOUR)


def hardware_line(hardware: Mapping[str, Any]) -> str:
    """Tell the hardware in a line.

    Args:
        hardware (`Mapping[str, Any]`): As above.
    """
    num_processes = hardware["num_processes"]
    name, num_cores = hardware["processor"], hardware["num_cores"]
    processor = f"{num_cores} CPU cores" if name is None else f"{num_cores} cores of {name}"
    if hardware["accelerator"] is not None:
        return f"{num_processes} x {hardware['accelerator']}, {processor}"
    return f"{processor}, {num_processes} process{'es' if num_processes > 1 else ''}"


def energy_text(stages: Sequence[Mapping[str, Any]]) -> str:
    """Tell energy and emissions with the assumptions that they rest on.

    Args:
        stages (sequence of `Mapping[str, Any]`): As above.
    """
    spent = consumption(stages)
    if spent is None:
        return "Energy is not estimated, as the hardware was not recorded."
    return (
        f"Energy: about {spent.kilowatt_hours:.2g} kWh, {spent.grams:.2g} g of CO2 equivalent. This is an estimate, "
        f"not a measurement: time x power x {POWER_USAGE_EFFECTIVENESS:g} (cooling and losses of an average data "
        f"centre) x {GRAMS_A_KILOWATT_HOUR:g} g/kWh (the world's electricity in 2018), at {WATTS_A_CORE:g} W a core"
        + _accelerator_clause(stages)
        + ", all of them busy all the time. Formula and numbers are those of Green Algorithms (Lannelongue et al. "
        "2021)."
    )


def _accelerator_clause(stages: Sequence[Mapping[str, Any]]) -> str:
    if all(stage["hardware"]["accelerator"] is None for stage in stages):
        return ""
    return f" and the highest power of each accelerator ({WATTS_OF_ANY_ACCELERATOR:g} W where it is not known)"
