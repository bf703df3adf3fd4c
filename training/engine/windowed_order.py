"""An order of samples for data that lie in shards: what is read together lies together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.engine.random_streams import sample_rng

_KEPT_WINDOWS = 4


class WindowedOrder:
    """Every epoch the shards in a random order, and their samples shuffled within windows of consecutive positions.

    As a shuffle buffer mixes them, but without a buffer: position p of an epoch depends on nothing but the seed, the
    epoch and p, and takes the memory of one window. Shards of more samples than a window are permuted in pieces, each
    at most a window long.

    Args:
        shard_sizes (sequence of `int`): Samples of each shard; the data set has them in this order.
        window (`int`): Positions that are shuffled together.
        seed (`int`): The seed of the run.
    """

    def __init__(self, shard_sizes: Sequence[int], window: int, seed: int) -> None:
        starts: list[np.ndarray] = []
        first = 0
        for size in shard_sizes:
            num_pieces = -(-size // window)
            starts.append(first + np.arange(num_pieces, dtype=np.int64) * size // max(num_pieces, 1))
            first += size
        self.num_samples = first
        self.window = window
        self.seed = seed
        self._starts = np.concatenate([*starts, np.array([first], dtype=np.int64)])
        self._shuffled: dict[tuple[int, int], np.ndarray] = {}

    def index(self, sample_number: int, global_batch_size: int) -> int:
        """Return the index into the data set of a global sample number; where batches begin does not matter."""
        epoch, position = divmod(sample_number, self.num_samples)
        key, place = (epoch, position // self.window), position % self.window
        if key not in self._shuffled:
            while len(self._shuffled) >= _KEPT_WINDOWS:
                del self._shuffled[next(iter(self._shuffled))]
            self._shuffled[key] = self._shuffle(*key)
        return int(self._shuffled[key][place])

    def _shuffle(self, epoch: int, number: int) -> np.ndarray:
        first = number * self.window
        count = min(self.window, self.num_samples - first)
        window_rng = sample_rng(self.seed, "order/window", epoch * -(-self.num_samples // self.window) + number)
        positions = first + window_rng.permutation(count)
        order = sample_rng(self.seed, "order/shards", epoch).permutation(len(self._starts) - 1)
        ends = np.cumsum(np.diff(self._starts)[order])
        pieces = np.searchsorted(ends, positions, side="right")
        # A position is as far from the end of its piece in the order as its sample is from that in the data set.
        return self._starts[order[pieces] + 1] - ends[pieces] + positions
