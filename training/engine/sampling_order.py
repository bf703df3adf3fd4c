"""The order of samples, as a pure function of (seed, epoch, global sample number).

Global sample numbers count from 0 at the start of a stage and never repeat; the index into the data set of a number is
read off the shuffled order of its epoch. Batches run across the ends of epochs, so every global batch is full. Nothing
here depends on the number of processes except which rows of a global batch a process takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

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
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.rank = rank
        self.num_processes = num_processes
        self.seed = seed
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
        return [(number, index_of(self.seed, number, self.num_samples)) for number in numbers]
