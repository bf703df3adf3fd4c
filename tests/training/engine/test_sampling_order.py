"""The order of samples: every epoch a permutation, every split of a global batch the same samples."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from training.engine.sampling_order import GlobalBatchSampler, WindowedOrder, epoch_order, index_of

GLOBAL_BATCH = 12


def sampler(
    batch_size: int = GLOBAL_BATCH,
    accumulation: int = 1,
    rank: int = 0,
    num_processes: int = 1,
    *,
    num_samples: int = 50,
    seed: int = 0,
    start_step: int = 0,
    max_steps: int = 9,
) -> GlobalBatchSampler:
    return GlobalBatchSampler(num_samples, batch_size, accumulation, rank, num_processes, seed, start_step, max_steps)


def flat(batches) -> list[tuple[int, int]]:
    return [key for batch in batches for key in batch]


@pytest.mark.parametrize("num_samples", [1, 2, 7, 1438])
def test_an_epoch_is_a_permutation(num_samples):
    for epoch in range(3):
        assert sorted(epoch_order(0, epoch, num_samples)) == list(range(num_samples))


def test_epochs_and_seeds_differ():
    orders = [tuple(epoch_order(seed, epoch, 100)) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 9
    # As far as two permutations of 100 agree by chance: in one place on average, hardly ever in ten.
    assert max(np.equal(a, b).sum() for a in orders for b in orders if a is not b) < 10


def test_an_index_is_read_off_its_epoch():
    assert [index_of(3, number, 5) for number in range(10)] == [*epoch_order(3, 0, 5), *epoch_order(3, 1, 5)]
    assert index_of(3, 5_000_000, 5) == epoch_order(3, 1_000_000, 5)[0]


def test_each_sample_is_seen_once_an_epoch_across_full_batches():
    keys = flat(sampler(num_samples=50, max_steps=25))  # 300 samples are 6 epochs of 50 in 25 batches of 12.
    assert [number for number, _ in keys] == list(range(300))
    for epoch in range(6):
        indices = [index for _, index in keys[50 * epoch : 50 * (epoch + 1)]]
        assert sorted(indices) == list(range(50))
    assert {len(batch) for batch in sampler(num_samples=50, max_steps=25)} == {GLOBAL_BATCH}


def test_a_batch_larger_than_the_data_set():
    keys = flat(sampler(num_samples=5, max_steps=1))
    assert sorted(index for _, index in keys[:5]) == sorted(index for _, index in keys[5:10]) == list(range(5))


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "num_processes"),
    [(12, 1, 1), (6, 1, 2), (4, 3, 1), (2, 3, 2), (2, 2, 3), (1, 3, 4), (1, 12, 1), (1, 1, 12)],
)
def test_every_split_of_a_step_has_the_same_samples(batch_size, accumulation, num_processes):
    whole = list(sampler())
    ranks = [list(sampler(batch_size, accumulation, rank, num_processes)) for rank in range(num_processes)]
    for step, expected in enumerate(whole):
        parts = [rank[step * accumulation + micro_batch] for micro_batch in range(accumulation) for rank in ranks]
        assert {len(part) for part in parts} == {batch_size}
        assert flat(parts) == expected


@pytest.mark.parametrize(("batch_size", "accumulation"), [(12, 1), (4, 3)])
def test_a_resumed_run_goes_on_where_it_stopped(batch_size, accumulation):
    whole = list(sampler(batch_size, accumulation))
    assert list(sampler(batch_size, accumulation, start_step=4)) == whole[4 * accumulation :]
    assert list(sampler(batch_size, accumulation, max_steps=4)) == whole[: 4 * accumulation]
    assert list(sampler(batch_size, accumulation, start_step=9)) == []


def test_length_and_repetition():
    some = sampler(4, 3, start_step=2)
    assert len(some) == len(list(some)) == 7 * 3
    assert list(some) == list(some)
    assert some.global_batch_size == GLOBAL_BATCH


def test_a_loader_takes_the_keys_as_they_are():
    keys = [(number, number % 50) for number in range(50)]

    class Echo:
        def __getitem__(self, key):
            return key

        def __len__(self):
            return len(keys)

    batches = list(DataLoader(Echo(), batch_sampler=sampler(max_steps=2), collate_fn=list))
    assert batches == list(sampler(max_steps=2))


@pytest.mark.parametrize(
    ("shard_sizes", "window"), [([7], 3), ([5, 0, 9, 1], 4), ([5, 5, 5], 100), ([1] * 20, 1), ([400, 3], 50)]
)
def test_a_windowed_epoch_has_each_sample_once(shard_sizes, window):
    order, total = WindowedOrder(shard_sizes, window), sum(shard_sizes)
    for epoch in range(3):
        numbers = range(epoch * total, (epoch + 1) * total)
        assert sorted(order.index_of(0, number) for number in numbers) == list(range(total))


def test_a_windowed_order_stays_close():
    """A window reads as many shards as its samples fill, and one more at each end."""
    sizes, window = [30, 50, 40] * 20, 120
    order, shard_of = WindowedOrder(sizes, window), np.repeat(np.arange(60), sizes)
    for start in range(0, sum(sizes), window):
        shards = {shard_of[order.index_of(5, number)] for number in range(start, start + window)}
        assert len(shards) <= window // 30 + 2
    indices = [order.index_of(5, number) for number in range(window)]
    assert indices != sorted(indices)


def test_large_shards_are_permuted_in_pieces():
    order = WindowedOrder([1000], 10)
    first = [min(order.index_of(0, number) for number in range(start, start + 10)) for start in range(0, 1000, 10)]
    assert first != sorted(first)
    assert all(max(order.index_of(0, n) for n in range(s, s + 10)) - first[s // 10] < 10 for s in range(0, 1000, 10))


def test_windowed_epochs_and_seeds_differ():
    order = WindowedOrder([10] * 10, 20)
    orders = [[order.index_of(seed, 100 * e + n) for n in range(100)] for seed in (0, 1) for e in (0, 1)]
    assert len({tuple(indices) for indices in orders}) == 4
    assert len({tuple(index // 10 for index in indices) for indices in orders}) == 4


def test_a_windowed_order_needs_the_memory_of_windows():
    """An index of a billion samples is found without a list of them, and is the same from whatever side it is met."""
    order = WindowedOrder([10_000] * 100_000, 1000)
    numbers = [0, 999_999_999, 1_000_000_000, 500_000_123, 0]
    found = [order.index_of(0, number) for number in numbers]
    fresh = WindowedOrder([10_000] * 100_000, 1000)
    assert found == [fresh.index_of(0, number) for number in numbers]
    assert all(0 <= index < 1_000_000_000 for index in found)


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "num_processes"), [(32, 1, 1), (8, 4, 1), (16, 1, 2), (8, 2, 2), (1, 8, 4)]
)
def test_every_split_of_a_windowed_step_has_the_same_samples(batch_size, accumulation, num_processes):
    def batches(batch_size, accumulation, rank, num_processes, start_step=0):
        order = WindowedOrder([13, 40, 22], 20)
        return list(
            GlobalBatchSampler(75, batch_size, accumulation, rank, num_processes, 3, start_step, 7, order=order)
        )

    whole = batches(32, 1, 0, 1)
    ranks = [batches(batch_size, accumulation, rank, num_processes) for rank in range(num_processes)]
    for step, expected in enumerate(whole):
        parts = [rank[step * accumulation + micro_batch] for micro_batch in range(accumulation) for rank in ranks]
        assert flat(parts) == expected
    for start in range(7):
        assert batches(batch_size, accumulation, 0, num_processes, start) == ranks[0][start * accumulation :]
