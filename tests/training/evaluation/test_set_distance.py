"""Distances between sets are those of their definitions, and unbiased where they say so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import ortho_group

from training.evaluation.set_distance import frechet_distance, kernel_distance, squared_mmd


def exact_gaussian(mean: np.ndarray, root: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Draw features whose sample mean and unbiased sample covariance are exactly `mean` and root root^T."""
    drawn = np.random.default_rng(seed).normal(size=(number, len(mean)))
    centred = drawn - drawn.mean(0)
    white = np.linalg.svd(centred, full_matrices=False)[0] * np.sqrt(number - 1)
    return mean + white @ root.T


def test_frechet_distance_of_diagonal_covariances():
    """|m - m'|^2 + sum (s - s')^2."""
    means = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    deviations = np.array([1.0, 2.0, 0.1]), np.array([3.0, 2.0, 0.4])
    one, other = (exact_gaussian(means[i], np.diag(deviations[i]), 40 + i, i) for i in range(2))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_full_covariances():
    """In two dimensions tr (C C')^(1/2) = (tr C C' + 2 det(C C')^(1/2))^(1/2); in more, against SciPy's root."""
    roots = [np.random.default_rng(i).normal(size=(2, 2)) for i in range(2)]
    covariances = [root @ root.T for root in roots]
    product = covariances[0] @ covariances[1]
    trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    one, other = (exact_gaussian(np.full(2, i), roots[i], 50, i) for i in range(2))
    expected = 2 + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * trace
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-10)

    roots = [np.random.default_rng(i).normal(size=(6, 6)) for i in range(2)]
    one, other = (exact_gaussian(np.full(6, 0.1 * i), roots[i], 50, i) for i in range(2))
    covariances = [root @ root.T for root in roots]
    trace = np.trace(sqrtm(covariances[0] @ covariances[1])).real
    expected = 0.06 + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * trace
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-10)


def test_the_frechet_distance_needs_no_full_rank():
    """Fewer images than features: still 0 from itself, and that of the subspace where all the images lie."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 20, 5)) * 10
    basis = ortho_group.rvs(100, random_state=0)[:5]
    assert frechet_distance(one @ basis, other @ basis) == pytest.approx(frechet_distance(one, other), rel=1e-10)
    wide = rng.normal(size=(50, 300)).astype(np.float32)
    assert 0 <= frechet_distance(wide, wide[::-1]) < 1e-10


def test_both_distances_are_symmetric_and_do_not_turn():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(30, 8)), rng.normal(size=(40, 8)) * 1.5 + 0.3
    turn = ortho_group.rvs(8, random_state=1)
    for distance in (frechet_distance, squared_mmd):
        value = distance(one, other)
        assert distance(other, one) == pytest.approx(value, rel=1e-10)
        assert distance(one @ turn, other @ turn) == pytest.approx(value, rel=1e-10)
        assert distance(rng.permutation(one), other) == pytest.approx(value, rel=1e-10)
    shift = np.full(8, 5.0)
    assert frechet_distance(one + shift, other + shift) == pytest.approx(frechet_distance(one, other), rel=1e-10)


def test_the_discrepancy_is_the_double_sum():
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    kernel = lambda x, y: (float(x @ y) / 3 + 1) ** 3  # noqa: E731
    within = sum(kernel(one[i], one[j]) for i in range(5) for j in range(5) if i != j) / 20
    within += sum(kernel(other[i], other[j]) for i in range(4) for j in range(4) if i != j) / 12
    across = sum(kernel(x, y) for x in one for y in other) / 20
    assert squared_mmd(one, other) == pytest.approx(within - 2 * across, rel=1e-12)


def test_the_kernel_distance_is_unbiased_and_its_error_is_true():
    """Over many draws its mean is 0 for equal distributions, and its deviation is the standard error that it tells.

    Of equal distributions the first-order term is 0, and the error that is told is sqrt(3) times too large.
    """
    rng = np.random.default_rng(3)
    for shift, ratio in ((0.0, np.sqrt(3)), (1.0, 1.0)):
        values, errors = zip(
            *(kernel_distance(rng.normal(size=(40, 8)), rng.normal(size=(40, 8)) + shift, i) for i in range(40)),
            strict=True,
        )
        deviation = np.std(values)
        # E k(x, y) of Gaussians with means m, m': (u + 1)^3 + 3 (u + 1) v, with u = m.m' / d and
        # v = (d + |m|^2 + |m'|^2) / d^2; the third moment about the mean is 6 u / d^2.
        expected = shift and _cubic(shift, shift) + _cubic(0, 0) - 2 * _cubic(0, shift)
        assert abs(np.mean(values) - expected) < 4 * deviation / np.sqrt(40)
        assert 0.7 < np.mean(errors) / deviation / ratio < 1.4


def _cubic(mean: float, other: float, features: int = 8) -> float:
    between = mean * other
    variance = (1 + mean**2 + other**2) / features
    return (between + 1) ** 3 + 3 * (between + 1) * variance + 6 * between / features**2


def test_the_seed_draws_the_subsets():
    one, other = np.random.default_rng(4).normal(size=(2, 20, 3))
    assert kernel_distance(one, other, seed=1) == kernel_distance(one, other, seed=1)
    assert kernel_distance(one, other, seed=1) != kernel_distance(one, other, seed=2)
    value, error = kernel_distance(one, other)
    assert abs(value - squared_mmd(one, other)) < error, "the mean over subsets is near that over everything"


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_sets_that_cannot_be_compared(distance):
    with pytest.raises(ValueError, match="sets of 3 and 9 images; allowed: at least 4 each"):
        distance(np.zeros((3, 2)), np.zeros((9, 2)))
    with pytest.raises(ValueError, match="2 and 3 features; allowed: equal numbers"):
        distance(np.zeros((9, 2)), np.zeros((9, 3)))
