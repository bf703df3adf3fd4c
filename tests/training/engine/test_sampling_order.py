"""The order of samples: every epoch a permutation, every split of a global batch the same samples."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from training.engine.sampling_order import GlobalBatchSampler, ShuffledOrder, epoch_order, order_of

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
    order = ShuffledOrder(num_samples, seed)
    return GlobalBatchSampler(order, batch_size, accumulation, rank, num_processes, start_step, max_steps)


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
    order = ShuffledOrder(5, 3)
    assert [order.index(number, 4) for number in range(10)] == [*epoch_order(3, 0, 5), *epoch_order(3, 1, 5)]
    assert order.index(5_000_000, 1) == order.index(5_000_000, 7) == epoch_order(3, 1_000_000, 5)[0]


def test_a_data_set_may_have_an_order_of_its_own():
    class Images(list):
        order = None

    images = Images(range(5))
    assert [order_of(images, 3).index(number, 4) for number in range(5)] == epoch_order(3, 0, 5).tolist()
    images.order = ShuffledOrder(2, 0)
    assert order_of(images, 3) is images.order
    assert [order_of(list(range(5)), 3).index(0, 1)] == epoch_order(3, 0, 5)[:1].tolist()


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
