"""The order of samples, as a pure function of (seed, epoch, global sample number).

Global sample numbers count from 0 at the start of a stage and never repeat; the index into the data set of a number is
read off the shuffled order of its epoch. Batches run across the ends of epochs, so every global batch is full. Nothing
here depends on the number of processes except which rows of a global batch a process takes.

A data set whose samples are read where they lie has an order of its own, `WindowedOrder`, whose reads stay close.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

from training.engine.random_streams import sample_rng

SampleKey = tuple[int, int]

_KEPT_WINDOWS = 4


class SampleOrder(Protocol):
    """Which sample of a data set stands at a global sample number."""

    def index_of(self, seed: int, sample_number: int) -> int:
        """Return the index into the data set, a pure function of the arguments; each one once an epoch."""
        ...


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """Shuffle one epoch.

    Args:
        seed (`int`): The seed of the run.
        epoch (`int`): Number of the epoch.
        num_samples (`int`): Size of the data set.

    Returns:
        `numpy.ndarray` of shape `(num_samples,)`, int64: a permutation.
    """
    return sample_rng(seed, "order", epoch).permutation(num_samples)


def index_of(seed: int, sample_number: int, num_samples: int) -> int:
    """Return the index into the data set of a global sample number.

    Args:
        seed (`int`): The seed of the run.
        sample_number (`int`): Global sample number.
        num_samples (`int`): Size of the data set.

    Returns:
        `int` in [0, num_samples).
    """
    epoch, position = divmod(sample_number, num_samples)
    return int(epoch_order(seed, epoch, num_samples)[position])


class ShuffledOrder:
    """Every epoch a permutation of the whole data set.

    Args:
        num_samples (`int`): Size of the data set.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def index_of(self, seed: int, sample_number: int) -> int:
        """Return the index into the data set of a global sample number."""
        return index_of(seed, sample_number, self.num_samples)


class WindowedOrder:
    """Every epoch the shards in a random order, and their samples shuffled within windows of consecutive positions.

    As a shuffle buffer mixes them, but without a buffer: position p of an epoch depends on nothing but the seed, the
    epoch and p, and takes the memory of one window. Shards of more samples than a window are permuted in pieces, each
    at most a window long.

    Args:
        shard_sizes (sequence of `int`): Samples of each shard; the data set has them in this order.
        window (`int`): Positions that are shuffled together.
    """

    def __init__(self, shard_sizes: Sequence[int], window: int) -> None:
        starts: list[np.ndarray] = []
        first = 0
        for size in shard_sizes:
            num_pieces = -(-size // window)
            starts.append(first + np.arange(num_pieces, dtype=np.int64) * size // max(num_pieces, 1))
            first += size
        self.num_samples = first
        self.window = window
        self._starts = np.concatenate([*starts, np.array([first], dtype=np.int64)])
        self._shuffled: dict[tuple[int, int, int], np.ndarray] = {}

    def index_of(self, seed: int, sample_number: int) -> int:
        """Return the index into the data set of a global sample number."""
        epoch, position = divmod(sample_number, self.num_samples)
        number, place = divmod(position, self.window)
        key = (seed, epoch, number)
        if key not in self._shuffled:
            while len(self._shuffled) >= _KEPT_WINDOWS:
                del self._shuffled[next(iter(self._shuffled))]
            self._shuffled[key] = self._shuffle(*key)
        return int(self._shuffled[key][place])

    def _shuffle(self, seed: int, epoch: int, number: int) -> np.ndarray:
        first = number * self.window
        count = min(self.window, self.num_samples - first)
        window_rng = sample_rng(seed, "order/window", epoch * -(-self.num_samples // self.window) + number)
        positions = first + window_rng.permutation(count)
        order = sample_rng(seed, "order/shards", epoch).permutation(len(self._starts) - 1)
        ends = np.cumsum(np.diff(self._starts)[order])
        pieces = np.searchsorted(ends, positions, side="right")
        # A position is as far from the end of its piece in the order as its sample is from that in the data set.
        return self._starts[order[pieces] + 1] - ends[pieces] + positions


class GlobalBatchSampler(Sampler[list[SampleKey]]):
    """Yields the micro-batches of one process, from a step on, as lists of (sample number, index).

    Step s covers the sample numbers [s G, (s + 1) G), G = processes x accumulation x batch size; micro-batch a of
    process r takes the rows [(a R + r) B, (a R + r + 1) B) of it.

    Args:
        num_samples (`int`): Size of the data set.
        batch_size (`int`): B, rows of a micro-batch of one process.
        accumulation (`int`): Micro-batches of a step.
        rank (`int`): r, this process.
        num_processes (`int`): R.
        seed (`int`): The seed of the run.
        start_step (`int`): Steps that are done.
        max_steps (`int`): Steps in all.
        order (`SampleOrder`, *optional*): The data set's own order; otherwise every epoch is a permutation.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        accumulation: int,
        rank: int,
        num_processes: int,
        seed: int,
        start_step: int,
        max_steps: int,
        order: SampleOrder | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.rank = rank
        self.num_processes = num_processes
        self.seed = seed
        self.steps = range(start_step, max_steps)
        self.order = ShuffledOrder(num_samples) if order is None else order

    @property
    def global_batch_size(self) -> int:
        """Samples of one step, over all processes and micro-batches."""
        return self.batch_size * self.accumulation * self.num_processes

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in self.steps:
            for micro_batch in range(self.accumulation):
                yield self.keys(step, micro_batch)

    def keys(self, step: int, micro_batch: int) -> list[SampleKey]:
        """Return this process's samples of a micro-batch of a step."""
        row = (micro_batch * self.num_processes + self.rank) * self.batch_size
        first = step * self.global_batch_size + row
        numbers = range(first, first + self.batch_size)
        return [(number, self.order.index_of(self.seed, number)) for number in numbers]
