"""The order of bucketed samples: one bucket a global batch, each sample once an epoch of its bucket."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from training.engine.bucket_order import BucketOrder, sum_of_floors
from training.engine.random_streams import stratified_uniform
from training.engine.sampling_order import GlobalBatchSampler

GLOBAL_BATCH = 32
COUNTS = {0: 70, 2: 25, 3: 300, 5: 1}  # Two buckets without samples between them.
BUCKETS = np.random.default_rng(0).permutation([bucket for bucket, count in COUNTS.items() for _ in range(count)])
SHARES = {bucket: count / len(BUCKETS) for bucket, count in COUNTS.items()}


def order(seed: int = 0) -> BucketOrder:
    return BucketOrder(BUCKETS, seed)


def sampler(batch_size: int, accumulation: int, rank: int, num_processes: int, start: int = 0) -> GlobalBatchSampler:
    return GlobalBatchSampler(order(), batch_size, accumulation, rank, num_processes, start, max_steps=60)


def batches(seed: int = 0, steps: range = range(400), size: int = GLOBAL_BATCH) -> list[list[int]]:
    some = order(seed)
    return [[some.index(step * size + row, size) for row in range(size)] for step in steps]


def test_a_global_batch_is_of_one_bucket():
    for step, batch in enumerate(batches()):
        assert {int(BUCKETS[index]) for index in batch} == {order().bucket(step)}


@pytest.mark.parametrize("size", [1, 7, 32])
def test_each_sample_comes_once_in_each_epoch_of_its_bucket(size):
    streams: dict[int, list[int]] = {}
    for batch in batches(steps=range(1000), size=size):
        streams.setdefault(int(BUCKETS[batch[0]]), []).extend(batch)
    assert set(streams) == set(COUNTS)
    for bucket, stream in streams.items():
        members = np.flatnonzero(bucket == BUCKETS).tolist()
        epochs = [stream[first : first + len(members)] for first in range(0, len(stream), len(members))]
        assert all(sorted(epoch) == members for epoch in epochs[:-1])
        assert len(set(epochs[-1])) == len(epochs[-1])
        if len(members) > 20 and len(epochs) > 2:
            assert epochs[0] != epochs[1]


def test_buckets_come_in_proportion_over_any_stretch():
    """The discrepancy of the multiples of sqrt(2) grows as the logarithm of their number."""
    drawn = [order().bucket(step) for step in range(20_000)]
    for start, stop in [(0, 20_000), (0, 500), (7_000, 7_500), (19_000, 20_000)]:
        counts = Counter(drawn[start:stop])
        for bucket, share in SHARES.items():
            assert abs(counts[bucket] - share * (stop - start)) < 4


def test_earlier_steps_are_counted_exactly():
    some = order(3)
    drawn = np.array([some.bucket(step) for step in range(3000)])
    for bucket in range(6):
        counted = np.cumsum(drawn == bucket) - (drawn == bucket)
        assert [some.earlier_steps(bucket, step) for step in range(3000)] == counted.tolist()


@pytest.mark.parametrize("step", [10**6, 10**12, 2**64 + 5])
def test_far_steps_go_on_as_near_ones(step):
    some = order()
    counts = {bucket: some.earlier_steps(bucket, step) for bucket in range(6)}
    assert sum(counts.values()) == step
    assert all(abs(counts[bucket] - share * step) < 20 + step / 2**55 for bucket, share in SHARES.items())
    for later in range(step, step + 50):
        bucket = some.bucket(later)
        assert some.earlier_steps(bucket, later) == counts[bucket]
        counts[bucket] += 1


def test_seeds_differ():
    assert len({tuple(map(tuple, batches(seed, range(5)))) for seed in range(4)}) == 4


def test_the_order_of_visits_does_not_matter():
    some, numbers = order(), np.random.default_rng(1).permutation(2000)
    visited = {number: some.index(int(number), 8) for number in numbers}
    again = order()
    assert all(visited[number] == again.index(number, 8) for number in range(2000))
    assert pickle.loads(pickle.dumps(some)).index(77, 8) == visited[77]


@pytest.mark.parametrize(
    ("num_processes", "accumulation", "batch_size"), [(1, 4, 8), (2, 1, 16), (2, 2, 8), (4, 8, 1)]
)
def test_every_split_of_a_step_has_the_same_samples_and_one_shape(num_processes, accumulation, batch_size):
    whole = list(sampler(GLOBAL_BATCH, 1, 0, 1))
    ranks = [list(sampler(batch_size, accumulation, rank, num_processes)) for rank in range(num_processes)]
    for step, expected in enumerate(whole):
        parts = [rank[step * accumulation + micro_batch] for micro_batch in range(accumulation) for rank in ranks]
        assert [key for part in parts for key in part] == expected
        assert [number for number, _ in expected] == list(range(step * GLOBAL_BATCH, (step + 1) * GLOBAL_BATCH))


@pytest.mark.parametrize("start", [0, 1, 31, 59, 60])
def test_a_run_is_resumed_at_any_step(start):
    whole = list(sampler(8, 2, 1, 2))
    assert list(sampler(8, 2, 1, 2, start)) == whole[2 * start :]


def test_a_bucket_is_seen_at_all_timesteps():
    """Timesteps of consecutive samples are spread by the golden ratio; the same for buckets would tie the two."""
    steps = range(4000)
    tenths = (stratified_uniform(0, "diffusion/timestep", steps) * 10).long().tolist()
    drawn = [order().bucket(step) for step in steps]
    for bucket in (0, 2, 3):
        counts = Counter(tenth for tenth, each in zip(tenths, drawn, strict=True) if each == bucket)
        expected = SHARES[bucket] * len(steps) / 10
        assert all(abs(counts[tenth] - expected) < 0.3 * expected for tenth in range(10))


@pytest.mark.parametrize(
    ("n", "a", "b", "m"), [(0, 3, 1, 5), (1, 0, -7, 3), (10, 7, -3, 4), (50, 3, 100, 17), (9, 0, 5, 1)]
)
def test_sum_of_floors(n, a, b, m):
    assert sum_of_floors(n, a, b, m) == sum((a * i + b) // m for i in range(n))


def test_many_sums_of_floors():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, a, m = (int(value) for value in rng.integers(1, 60, 3))
        b = int(rng.integers(-200, 200))
        assert sum_of_floors(n, a, b, m) == sum((a * i + b) // m for i in range(n))
