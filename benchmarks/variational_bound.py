"""The terms of the variational bound beside an independent implementation: improved-diffusion's formulas in NumPy.

    PYTHONPATH=. python benchmarks/variational_bound.py

One network with random weights, the same images and the same noise: every timestep's term by this package in float64,
and by the peer, which is written from the formulas of Ho et al. 2020 and Nichol and Dhariwal 2021 with NumPy and SciPy
alone. The peer builds its schedule from the betas' definition, so the rounding of the schedule is compared too.
improved-diffusion itself approximates the normal distribution's cumulative function by a tanh; what that changes in
L_0 is told in the last column.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from scipy.special import erfc

from sd_pipeline import SDDDPMScheduler
from sd_pipeline.schedulers.bound_of_schedule import BoundOfSchedule

NUM_STEPS = 1000
TIMESTEPS = (0, 1, 2, 10, 100, 500, 900, 999)
SHAPE = (3, 8, 8)


class Peer:
    """The bound of a linear schedule, epsilon prediction, in NumPy float64.

    Args:
        variance_type (`str`): `"fixed_small"`, `"fixed_large"` or `"learned_range"`.
    """

    def __init__(self, variance_type: str) -> None:
        self.variance_type = variance_type
        self.betas = np.linspace(1e-4, 0.02, NUM_STEPS)
        self.bar = np.cumprod(1 - self.betas)
        self.before = np.append(1.0, self.bar[:-1])
        self.small = self.betas * (1 - self.before) / (1 - self.bar)
        self.log_small = np.log(np.append(self.small[1], self.small[1:]))

    def noisy(self, x: np.ndarray, noise: np.ndarray, t: int) -> np.ndarray:
        """Diffuse x_0."""
        return np.sqrt(self.bar[t]) * x + np.sqrt(1 - self.bar[t]) * noise

    def term(self, output: np.ndarray, x: np.ndarray, x_t: np.ndarray, t: int, is_tanh: bool = False) -> float:
        """Give L_t in nats, or at t = 0 the nats of the discretised decoder."""
        epsilon, number = (output[: len(x)], output[len(x) :])
        log_variance = self.log_small[t] if self.variance_type == "fixed_small" else np.log(self.betas[t])
        if self.variance_type == "learned_range":
            part = (number + 1) / 2
            log_variance = part * np.log(self.betas[t]) + (1 - part) * self.log_small[t]
        predicted = np.sqrt(1 / self.bar[t]) * x_t - np.sqrt(1 / self.bar[t] - 1) * epsilon
        mean, true_mean = (self._posterior_mean(one, x_t, t) for one in (predicted, x))
        if t == 0:
            return float(-np.log(self._mass(x, mean, np.exp(-0.5 * log_variance), is_tanh)).sum())
        log_true = np.log(self.small[t])
        ratio = np.exp(log_true - log_variance) + (true_mean - mean) ** 2 * np.exp(-log_variance)
        return float((0.5 * (-1 + log_variance - log_true + ratio) * np.ones_like(x)).sum())

    def _posterior_mean(self, x: np.ndarray, x_t: np.ndarray, t: int) -> np.ndarray:
        of_x = self.betas[t] * np.sqrt(self.before[t]) / (1 - self.bar[t])
        return of_x * x + (1 - self.before[t]) * np.sqrt(1 - self.betas[t]) / (1 - self.bar[t]) * x_t

    def _mass(self, x: np.ndarray, mean: np.ndarray, precision: np.ndarray | float, is_tanh: bool) -> np.ndarray:
        def cdf(z: np.ndarray) -> np.ndarray:
            if is_tanh:
                return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
            return 0.5 * erfc(-z / math.sqrt(2))

        upper, lower = cdf(precision * (x - mean + 1 / 255)), cdf(precision * (x - mean - 1 / 255))
        inner = np.where(x > 0.999, 1 - lower, upper - lower)
        return np.maximum(np.where(x < -0.999, upper, inner), 1e-12)


def network(x_t: np.ndarray, t: int, num_outputs: int) -> np.ndarray:
    """Stand for a trained network: it finds the noise but for a smooth error. Random weights, the same each time."""
    weights = np.random.default_rng(0).normal(size=(num_outputs, len(x_t)))
    mixed = np.einsum("oc,chw->ohw", weights, x_t)
    return np.tanh(0.5 * mixed + t / NUM_STEPS)


def main() -> int:
    """Compare, print a table, and fail if a term differs by more than 1e-6."""
    rng = np.random.default_rng(1)
    x = 2 * rng.integers(0, 256, SHAPE) / 255 - 1
    noise = rng.normal(size=SHAPE)
    worst = 0.0
    print(f"{'variance':<14}{'t':>5}{'this package':>22}{'peer':>22}{'relative':>10}{'by tanh':>10}")
    for variance_type in ("fixed_small", "fixed_large", "learned_range"):
        peer, count = Peer(variance_type), 3 if variance_type != "learned_range" else 6
        schedule = SDDDPMScheduler(variance_type=variance_type, clip_sample=False)
        bound = BoundOfSchedule(schedule, "discretised")
        for t in TIMESTEPS:
            x_t = peer.noisy(x, noise, t)
            output = network(x_t, t, count)
            # A trained network is near to the noise where little of it is left; so is this one.
            output[:3] = noise + 0.05 * output[:3]
            theirs = peer.term(output, x, x_t, t)
            ours = float(bound.term(*(torch.from_numpy(one)[None] for one in (output, x, x_t)), torch.tensor([t])))
            by_tanh = f"{peer.term(output, x, x_t, t, is_tanh=True) / theirs - 1:10.1e}" if t == 0 else ""
            difference = abs(ours / theirs - 1)
            worst = max(worst, difference)
            print(f"{variance_type:<14}{t:>5}{ours:>22.12f}{theirs:>22.12f}{difference:>10.1e}{by_tanh}")
    print(f"largest relative difference {worst:.1e}; allowed 1e-6")
    return int(worst > 1e-6)


if __name__ == "__main__":
    sys.exit(main())
