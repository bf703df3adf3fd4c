"""The order of streamed data: every epoch each sample once, close together, whatever the split."""

from __future__ import annotations

import numpy as np
import pytest

from training.engine.sampling_order import GlobalBatchSampler
from training.engine.windowed_order import WindowedOrder


@pytest.mark.parametrize(
    ("shard_sizes", "window"), [([7], 3), ([5, 0, 9, 1], 4), ([5, 5, 5], 100), ([1] * 20, 1), ([400, 3], 50)]
)
def test_a_windowed_epoch_has_each_sample_once(shard_sizes, window):
    order, total = WindowedOrder(shard_sizes, window, 5), sum(shard_sizes)
    for epoch in range(3):
        numbers = range(epoch * total, (epoch + 1) * total)
        assert sorted(order.index(number, 8) for number in numbers) == list(range(total))


def test_a_windowed_order_stays_close():
    """A window reads as many shards as its samples fill, and one more at each end."""
    sizes, window = [30, 50, 40] * 20, 120
    order, shard_of = WindowedOrder(sizes, window, 5), np.repeat(np.arange(60), sizes)
    for start in range(0, sum(sizes), window):
        shards = {shard_of[order.index(number, 8)] for number in range(start, start + window)}
        assert len(shards) <= window // 30 + 2
    indices = [order.index(number, 8) for number in range(window)]
    assert indices != sorted(indices)


def test_large_shards_are_permuted_in_pieces():
    order = WindowedOrder([1000], 10, 5)
    first = [min(order.index(number, 8) for number in range(start, start + 10)) for start in range(0, 1000, 10)]
    assert first != sorted(first)
    assert all(max(order.index(n, 8) for n in range(s, s + 10)) - first[s // 10] < 10 for s in range(0, 1000, 10))


def test_windowed_epochs_and_seeds_differ():
    pair = [WindowedOrder([10] * 10, 20, seed) for seed in (0, 1)]
    orders = [[order.index(100 * epoch + n, 8) for n in range(100)] for order in pair for epoch in (0, 1)]
    assert len({tuple(indices) for indices in orders}) == 4
    assert len({tuple(index // 10 for index in indices) for indices in orders}) == 4


def test_a_windowed_order_needs_the_memory_of_windows():
    """An index of a billion samples is found without a list of them, and is the same from whatever side it is met."""
    order = WindowedOrder([10_000] * 100_000, 1000, 5)
    numbers = [0, 999_999_999, 1_000_000_000, 500_000_123, 0]
    found = [order.index(number, 8) for number in numbers]
    fresh = WindowedOrder([10_000] * 100_000, 1000, 5)
    assert found == [fresh.index(number, 8) for number in numbers]
    assert all(0 <= index < 1_000_000_000 for index in found)


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "num_processes"), [(32, 1, 1), (8, 4, 1), (16, 1, 2), (8, 2, 2), (1, 8, 4)]
)
def test_every_split_of_a_windowed_step_has_the_same_samples(batch_size, accumulation, num_processes):
    def batches(batch_size, accumulation, rank, num_processes, start_step=0):
        order = WindowedOrder([13, 40, 22], 20, 5)
        return list(GlobalBatchSampler(order, batch_size, accumulation, rank, num_processes, start_step, 7))

    whole = batches(32, 1, 0, 1)
    ranks = [batches(batch_size, accumulation, rank, num_processes) for rank in range(num_processes)]
    for step, expected in enumerate(whole):
        parts = [rank[step * accumulation + micro_batch] for micro_batch in range(accumulation) for rank in ranks]
        assert [key for part in parts for key in part] == expected
    for start in range(7):
        assert batches(batch_size, accumulation, 0, num_processes, start) == ranks[0][start * accumulation :]
