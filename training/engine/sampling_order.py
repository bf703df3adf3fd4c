"""The order of samples, as a pure function of (seed, global sample number, size of the global batch).

Global sample numbers count from 0 at the start of a stage and never repeat; an order tells the index into the data set
of each. Batches run across the ends of epochs, so every global batch is full. Nothing here depends on the number of
processes except which rows of a global batch a process takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Sampler

from training.engine.random_streams import sample_rng

SampleKey = tuple[int, int]


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


class SampleOrder(Protocol):
    """Tells which sample comes when. A data set that has one as its attribute `order` is read in that order."""

    def index(self, sample_number: int, global_batch_size: int) -> int:
        """Return the index into the data set of a global sample number.

        It is a pure function of its arguments and of what the order was made from, so that a run can be resumed at any
        step and split over processes in any way.

        Args:
            sample_number (`int`): Global sample number; those of step s are [s G, (s + 1) G).
            global_batch_size (`int`): G.
        """
        ...


class ShuffledOrder:
    """Every epoch is a new permutation of the whole data set.

    Args:
        num_samples (`int`): Size of the data set.
        seed (`int`): The seed of the run.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed

    def index(self, sample_number: int, global_batch_size: int) -> int:
        """Read the index of a sample number off its epoch; where batches begin does not matter."""
        epoch, position = divmod(sample_number, self.num_samples)
        return int(epoch_order(self.seed, epoch, self.num_samples)[position])


def order_of(dataset: Any, seed: int) -> SampleOrder:
    """Return the order of a data set's own (its attribute `order`), else a shuffled one.

    Args:
        dataset (`torch.utils.data.Dataset`): Map-style.
        seed (`int`): The seed of the run.
    """
    own: SampleOrder | None = getattr(dataset, "order", None)
    return ShuffledOrder(len(dataset), seed) if own is None else own


class GlobalBatchSampler(Sampler[list[SampleKey]]):
    """Yields the micro-batches of one process, from a step on, as lists of (sample number, index).

    Step s covers the sample numbers [s G, (s + 1) G), G = processes x accumulation x batch size; micro-batch a of
    process r takes the rows [(a R + r) B, (a R + r + 1) B) of it.

    Args:
        order (`SampleOrder`): Which sample of the data set each sample number is.
        batch_size (`int`): B, rows of a micro-batch of one process.
        accumulation (`int`): Micro-batches of a step.
        rank (`int`): r, this process.
        num_processes (`int`): R.
        start_step (`int`): Steps that are done.
        max_steps (`int`): Steps in all.
    """

    def __init__(
        self,
        order: SampleOrder,
        batch_size: int,
        accumulation: int,
        rank: int,
        num_processes: int,
        start_step: int,
        max_steps: int,
    ) -> None:
        self.order = order
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.rank = rank
        self.num_processes = num_processes
        self.steps = range(start_step, max_steps)

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
        return [(number, self.order.index(number, self.global_batch_size)) for number in numbers]
