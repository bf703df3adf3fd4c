"""Medians, quartiles, ratios of pairs, and the order of interleaved calls."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measurement import Spread, cost_row, interleaved, rate_row, synchronised


def test_spread():
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)


def test_ratios_are_those_of_pairs():
    """What slows the machine down for a while meets both of a pair, so their ratio stays."""
    cost = cost_row("memory", "peak", "MB", [1.0, 100.0, 2.0], [2.0, 200.0, 4.0], "note")
    assert cost.spread.median == 2.0
    assert cost.baseline == Spread.of([2.0, 4.0, 200.0])
    assert cost.ratio == Spread(2.0, 2.0, 2.0)
    assert cost.note == "note"
    rate = rate_row("data", "read", "images/s", 10, [1.0, 100.0, 2.0], [2.0, 200.0, 4.0])
    assert rate.spread.median == 5.0
    assert rate.ratio == cost.ratio


def test_costs_may_be_zero_without_a_baseline():
    assert cost_row("saving", "stall", "s", [0.0, -0.1]).spread.median == pytest.approx(-0.05)


def test_calls_take_turns():
    calls: list[str] = []
    functions = synchronised({name: lambda name=name: calls.append(name) for name in "ab"}, torch.device("cpu"))
    seconds = interleaved(functions, repetitions=2, num_warm_up=1)
    turns = [set(calls[first : first + 2]) for first in (0, 2, 4)]
    assert turns == [{"a", "b"}] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
