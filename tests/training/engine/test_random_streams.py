"""Keyed randomness: the same for the same key, whoever asks and in what company, and random otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from training.engine.random_streams import sample_rng, standard_normal, stratified_uniform, stream_key, uniform

MANY = 20_000


def test_equal_keys_draw_equal_numbers():
    assert torch.equal(standard_normal(1, "noise", [3, 4], (2, 5)), standard_normal(1, "noise", [3, 4], (2, 5)))
    assert torch.equal(uniform(1, "timestep", [3, 4]), uniform(1, "timestep", [3, 4]))


@pytest.mark.parametrize("other", [(2, "noise", 3), (1, "crop", 3), (1, "noise", 4)])
def test_other_keys_draw_other_numbers(other):
    assert not np.array_equal(sample_rng(1, "noise", 3).random(4), sample_rng(*other).random(4))


def test_a_sample_does_not_depend_on_its_batch():
    """So neither does it depend on how a global batch is split into processes and micro-batches."""
    together = standard_normal(0, "noise", range(12), (4, 3))
    for split in ([range(6), range(6, 12)], [[number] for number in range(12)]):
        assert torch.equal(together, torch.cat([standard_normal(0, "noise", part, (4, 3)) for part in split]))
    assert torch.equal(together.flip(0), standard_normal(0, "noise", range(11, -1, -1), (4, 3)))
    for draw in (uniform, stratified_uniform):
        assert torch.equal(draw(0, "t", range(12))[[7, 2]], draw(0, "t", [7, 2]))


def test_global_generators_are_neither_used_nor_moved():
    def draw() -> torch.Tensor:
        return torch.cat([standard_normal(0, "noise", [1], (3,))[0].double(), uniform(0, "noise", [1])])

    torch.manual_seed(1)
    np.random.seed(1)
    first, states = draw(), (torch.get_rng_state(), np.random.get_state()[1].copy())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(draw(), first)


def test_shapes_types_and_kinds_of_numbers():
    noise = standard_normal(0, "noise", torch.tensor([5, 6]), (4, 2, 3))
    assert (noise.shape, noise.dtype, noise.device.type) == ((2, 4, 2, 3), torch.float32, "cpu")
    assert torch.equal(noise, standard_normal(0, "noise", np.array([5, 6]), (4, 2, 3)))
    numbers = uniform(0, "t", [5, 6])
    assert (numbers.shape, numbers.dtype) == ((2,), torch.float64)


def test_noise_is_standard_normal():
    one_each = standard_normal(0, "noise", range(MANY), (1,)).flatten()
    many_of_one = standard_normal(0, "noise", [0], (MANY,)).flatten()
    for noise in (one_each, many_of_one):
        assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01


def test_uniform_numbers_are_uniform():
    numbers = uniform(0, "timestep", range(MANY))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 0.01


def test_stratified_numbers_are_uniform_each_by_itself():
    numbers = torch.cat([stratified_uniform(seed, "timestep", [1_000_003]) for seed in range(2_000)])
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("count", [8, 32, 100])
@pytest.mark.parametrize("first", [0, 12_345_678])
def test_stratified_numbers_of_neighbours_cover_the_interval(count, first):
    """No gap between points of the golden ratio's sequence is twice as wide as their mean."""
    numbers = stratified_uniform(3, "timestep", range(first, first + count)).sort().values
    gaps = torch.diff(torch.cat([numbers, numbers[:1] + 1]))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert gaps.max() < 2 / count


def test_a_stratified_mean_varies_less():
    def variance(draw):
        parts = [draw(0, "timestep", range(first, first + 32)).square().mean() for first in range(0, 32 * 200, 32)]
        return torch.stack(parts).var()

    assert variance(stratified_uniform) < variance(uniform) / 10


def test_streams_and_neighbours_do_not_correlate():
    noise, other = standard_normal(0, "noise", range(MANY), (1,)), standard_normal(0, "posterior", range(MANY), (1,))
    next_seed = standard_normal(1, "noise", range(MANY), (1,))
    pairs = [(noise[1:], noise[:-1]), (noise, other), (noise, next_seed)]
    for one, two in pairs:
        correlation = np.corrcoef(one.flatten(), two.flatten())[0, 1]
        assert abs(correlation) < 4 / MANY**0.5


def test_the_streams_of_two_samples_never_meet():
    """The sample number is in the upper half of the counter: no length of one stream runs into the next."""
    states = [sample_rng(0, "noise", number).bit_generator.state["state"] for number in (0, 1)]
    assert np.array_equal(states[0]["key"], states[1]["key"])
    assert states[0]["counter"].tolist()[:2] == states[1]["counter"].tolist()[:2] == [0, 0]
    assert (states[0]["counter"][2], states[1]["counter"][2]) == (0, 1)


def test_the_key_is_the_hash():
    key = stream_key(5, "noise")
    expected = np.random.Philox(key=key, counter=[0, 0, 9, 0]).random_raw(8)
    assert np.array_equal(sample_rng(5, "noise", 9).bit_generator.random_raw(8), expected)


def test_keys_tell_their_parts_apart():
    keys = [
        stream_key(1),
        stream_key(11),
        stream_key(1, "1"),
        stream_key(1, "ab", "c"),
        stream_key(1, "a", "bc"),
        stream_key(1, "abc"),
        stream_key(1, "abc", 0),
        stream_key(1, "abc", 1),
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**128 for key in keys)
