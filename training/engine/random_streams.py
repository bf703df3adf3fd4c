"""Everything random about a sample, as a pure function of (seed, stream name, global sample number).

No generator is carried from step to step or belongs to a rank. Hence a run that is stopped and resumed, or whose
global batch is split over other processes and micro-batches, draws the same crops, captions, timesteps and noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence

_GOLDEN_RATIO = (5**0.5 - 1) / 2


def stream_key(seed: int, *names: str | int) -> int:
    """Hash a seed and the names of a stream to 128 bits.

    Args:
        seed (`int`): The seed of the run.
        names (`str` or `int`): What the stream is for, for example `"timestep"`.

    Returns:
        `int` in [0, 2**128): the key of the stream's counter-based generator.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def sample_rng(seed: int, stream: str, sample_number: int) -> np.random.Generator:
    """Make the generator of one stream of one sample.

    Philox is counter-based: the sample number goes into the upper half of the 256-bit counter, so that the streams of
    two samples never meet.

    Args:
        seed (`int`): The seed of the run.
        stream (`str`): What is drawn, for example `"noise"`.
        sample_number (`int`): The global number of the sample, counted from the start of the stage.

    Returns:
        `numpy.random.Generator`: a fresh generator.
    """
    philox = np.random.Philox(_philox_key(seed, stream), counter=[0, 0, sample_number, 0])  # type: ignore[arg-type]
    return np.random.Generator(philox)


class _PhiloxKey(ISeedSequence):
    """Hands a key to Philox as it is; `Philox(key=...)` would first draw entropy from the system, and discard it."""

    def __init__(self, key: int) -> None:
        self._words = np.array([key & (2**64 - 1), key >> 64], dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the two words of the key."""
        return self._words


@lru_cache(maxsize=64)
def _philox_key(seed: int, stream: str) -> _PhiloxKey:
    return _PhiloxKey(stream_key(seed, stream))


def standard_normal(seed: int, stream: str, sample_numbers: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Draw standard normal noise, one independent stream a sample.

    Args:
        seed (`int`): The seed of the run.
        stream (`str`): Name of the stream.
        sample_numbers (sequence of `int`): Global sample numbers, one a row.
        shape (sequence of `int`): Shape of one sample's noise.

    Returns:
        `torch.Tensor` of shape `(len(sample_numbers), *shape)`, float32, on the CPU.
    """
    noise = np.empty((len(sample_numbers), *shape), dtype=np.float32)
    for row, number in zip(noise, sample_numbers, strict=True):
        sample_rng(seed, stream, int(number)).standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(noise)


def uniform(seed: int, stream: str, sample_numbers: Sequence[int]) -> torch.Tensor:
    """Draw one uniform number a sample.

    Args:
        seed (`int`): The seed of the run.
        stream (`str`): Name of the stream.
        sample_numbers (sequence of `int`): Global sample numbers.

    Returns:
        `torch.Tensor` of shape `(len(sample_numbers),)`, float64, in [0, 1), on the CPU.
    """
    return torch.tensor([sample_rng(seed, stream, int(n)).random() for n in sample_numbers], dtype=torch.float64)


def stratified_uniform(seed: int, stream: str, sample_numbers: Sequence[int]) -> torch.Tensor:
    """Draw one uniform number a sample, so that those of consecutive samples cover [0, 1) evenly.

    u_n = frac(u_0 + n (sqrt(5) - 1) / 2), the Kronecker sequence of the golden ratio, from a random start u_0 (a
    Cranley-Patterson rotation): each u_n is uniform, and the mean of a function over any run of consecutive samples
    has far less variance than that of independent draws.

    Args:
        seed (`int`): The seed of the run.
        stream (`str`): Name of the stream.
        sample_numbers (sequence of `int`): Global sample numbers, one a row.

    Returns:
        `torch.Tensor` of shape `(len(sample_numbers),)`, float64, in [0, 1), on the CPU.
    """
    start = sample_rng(seed, stream, 0).random()
    return torch.tensor([(start + int(n) * _GOLDEN_RATIO) % 1 for n in sample_numbers], dtype=torch.float64)
