"""An order of samples whose every global batch is of one bucket, so that the pictures of a batch have one shape.

The bucket of a step is drawn in proportion to its number of samples, by a low-discrepancy sequence: over any stretch
of steps each bucket has its share to within a few steps. The samples of a bucket are an endless stream, permuted anew
in each epoch of the bucket; each step of the bucket takes the next global batch of it.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from math import isqrt

import numpy as np

from training.engine.random_streams import sample_rng

# Fractions of 1 are counted in units of 2^-64, so that nothing is rounded however many steps there are.
_ONE = 2**64
# sqrt(2) - 1, whose multiples are spread as evenly as those of the golden ratio but for a constant. The golden ratio
# spreads the timesteps of consecutive samples: with it here too, a bucket might always be seen at the same ones.
_STRIDE = isqrt(2 * _ONE**2) - _ONE


class BucketOrder:
    """Global batches of one bucket each, and every sample once in each epoch of its bucket.

    The bucket of step s is the one in whose part of [0, 1) lies u_s = frac(u_0 + s (sqrt(2) - 1)); a part is as
    long as the bucket's share of the samples. How many steps before s have the same bucket, and so where its stream
    stands, has a closed form: nothing is carried from step to step. A bucket with fewer samples than a global batch
    repeats them within it.

    Args:
        buckets (`numpy.ndarray` of shape `(num_samples,)`, int64): Number of each sample's bucket, from 0 on.
        seed (`int`): The seed of the run.

    Example:
        ```python
        >>> import numpy as np
        >>> from training.engine.bucket_order import BucketOrder
        >>> buckets = np.array([0, 1, 0, 1, 1, 1])
        >>> order = BucketOrder(buckets, seed=0)
        >>> all(buckets[order.index(2 * step, 2)] == buckets[order.index(2 * step + 1, 2)] for step in range(100))
        True

        ```
    """

    def __init__(self, buckets: np.ndarray, seed: int) -> None:
        self.seed = seed
        # Bucket b has the samples members[starts[b] : starts[b + 1]], and of [0, 1) the part between the same bounds.
        self.members = np.argsort(buckets, kind="stable")
        self.starts: list[int] = [0, *np.cumsum(np.bincount(buckets)).tolist()]
        self.bounds = [_ONE * start // len(buckets) for start in self.starts]
        self.first = int(sample_rng(seed, "order/bucket", 0).integers(_ONE, dtype=np.uint64))
        self._latest = (-1, 0, 0)

    def bucket(self, step: int) -> int:
        """Return the bucket of a step."""
        return bisect_right(self.bounds, (self.first + step * _STRIDE) % _ONE) - 1

    def earlier_steps(self, bucket: int, step: int) -> int:
        """Count the steps before `step` that have `bucket`, in a time that grows as the logarithm of `step`.

        With x_s = u_0 + s (sqrt(2) - 1) and 0 <= a <= b <= 1, floor(x_s - a) - floor(x_s - b) is 1 where frac(x_s)
        is in [a, b), and 0 elsewhere. Both sums have a closed form.

        Args:
            bucket (`int`): The bucket.
            step (`int`): Number of steps, from the first on, that are looked at.
        """
        low, high = (
            sum_of_floors(step, _STRIDE, self.first - bound, _ONE) for bound in self.bounds[bucket : bucket + 2]
        )
        return low - high

    def index(self, sample_number: int, global_batch_size: int) -> int:
        """Return the index into the data set of a global sample number.

        Args:
            sample_number (`int`): Global sample number.
            global_batch_size (`int`): Samples of a step.
        """
        step, row = divmod(sample_number, global_batch_size)
        if self._latest[0] != step:
            bucket = self.bucket(step)
            self._latest = (step, bucket, self.earlier_steps(bucket, step))
        _, bucket, earlier = self._latest
        start, end = self.starts[bucket : bucket + 2]
        epoch, position = divmod(earlier * global_batch_size + row, end - start)
        return int(self.members[start + _bucket_epoch_order(self.seed, bucket, epoch, end - start)[position]])


@lru_cache(maxsize=256)
def _bucket_epoch_order(seed: int, bucket: int, epoch: int, num_samples: int) -> np.ndarray:
    return sample_rng(seed, f"order/bucket/{bucket}", epoch).permutation(num_samples)


def sum_of_floors(n: int, a: int, b: int, m: int) -> int:
    """Sum floor((a i + b) / m) over i = 0 ... n - 1, by Euclid's algorithm on a and m.

    Whole multiples of m in a and b are taken out; what is left counts the points of a lattice under a line, which are
    counted along the other axis next (Graham, Knuth, Patashnik, Concrete Mathematics, section 3.5).

    Args:
        n (`int`): Number of terms, at least 0.
        a (`int`): Slope, at least 0.
        b (`int`): Start, of any sign.
        m (`int`): Divisor, at least 1.
    """
    total = 0
    while True:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        reached = a * n + b
        if reached < m:
            return total
        n, a, b, m = reached // m, m, reached % m, a
