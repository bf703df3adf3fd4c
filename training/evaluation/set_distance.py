"""Distances between two sets of images, given as sets of features.

NumPy in float64, not torchmetrics: its metrics take images and run the network anew for each distance, draw the
subsets of the kernel distance from torch's global generator, and take square roots of eigenvalues that are rounding
errors (a set of 100 images with 512 features was at -1e-4 from itself).
"""

from __future__ import annotations

import numpy as np

NUM_SUBSETS = 100
MAX_SUBSET_SIZE = 1000
MIN_IMAGES = 4


def frechet_distance(features: np.ndarray, other: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians with the sets' means and covariances, Heusel et al. 2017, eq. 6.

    d^2 = |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), with the unbiased covariances C = R^T R, where R is the triangular
    factor of the centred features over sqrt(N - 1). The eigenvalues of C C' are the squares of the singular values
    of R R'^T, so their sum is the trace of the root, and neither a covariance nor a root of rounding errors appears.

    The estimate is biased upwards, the more the fewer the images: compare it at equal N only.

    Args:
        features (`numpy.ndarray` of shape `(num_images, num_features)`): Features of one set.
        other (`numpy.ndarray` of shape `(num_other, num_features)`): Features of the other.

    Returns:
        `float`: at least 0.

    Raises:
        ValueError: If a set has fewer than 4 images, or the numbers of features differ.
    """
    _check(features, other)
    root, other_root = _root_of_covariance(features), _root_of_covariance(other)
    between_means = np.square(features.mean(0, dtype=np.float64) - other.mean(0, dtype=np.float64)).sum()
    trace_of_root = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    return float(max(0.0, between_means + np.square(root).sum() + np.square(other_root).sum() - 2 * trace_of_root))


def _root_of_covariance(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return np.asarray(np.linalg.qr((features - features.mean(0)) / np.sqrt(len(features) - 1), mode="r"))


def squared_mmd(features: np.ndarray, other: np.ndarray) -> float:
    """Squared maximum mean discrepancy under the cubic kernel k(x, y) = (x.y / d + 1)^3, Binkowski et al. 2018.

    MMD^2 = mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2 mean over i, j of k(x_i, y_j),
    Gretton et al. 2012, eq. 3: unbiased, so it is negative half of the time where the distributions are equal.

    Args:
        features (`numpy.ndarray` of shape `(num_images, num_features)`): Features of one set.
        other (`numpy.ndarray` of shape `(num_other, num_features)`): Features of the other.

    Returns:
        `float`: of either sign.
    """
    features, other = features.astype(np.float64), other.astype(np.float64)
    across = _cubic_kernel(features, other).mean()
    return float(_mean_of_pairs(features) + _mean_of_pairs(other) - 2 * across)


def _cubic_kernel(features: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (features @ other.T / features.shape[1] + 1) ** 3


def _mean_of_pairs(features: np.ndarray) -> float:
    kernel, number = _cubic_kernel(features, features), len(features)
    return float((kernel.sum() - np.trace(kernel)) / (number * (number - 1)))


def kernel_distance(features: np.ndarray, other: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Kernel distance of Binkowski et al. 2018: the mean of `squared_mmd` over 100 random subsets of both sets.

    The subsets have m = half of the smaller set's N images, at most 1000, drawn without replacement. They overlap, so
    the standard error comes from their deviation s as in the jackknife that leaves out N - m, Shao and Wu 1989:
    s sqrt(m / (N - m)). Where the distributions are equal it is too large by up to sqrt(3).

    Args:
        features (`numpy.ndarray` of shape `(num_images, num_features)`): Features of one set.
        other (`numpy.ndarray` of shape `(num_other, num_features)`): Features of the other.
        seed (`int`, defaults to 0): Draws the subsets.

    Returns:
        `tuple[float, float]`: the distance, of either sign and 0 on average for equal distributions, and its standard
        error.

    Raises:
        ValueError: If a set has fewer than 4 images, or the numbers of features differ.
    """
    _check(features, other)
    rng, smaller = np.random.default_rng(seed), min(len(features), len(other))
    size = min(smaller // 2, MAX_SUBSET_SIZE)
    subsets = [
        squared_mmd(rng.choice(features, size, replace=False), rng.choice(other, size, replace=False))
        for _ in range(NUM_SUBSETS)
    ]
    return float(np.mean(subsets)), float(np.std(subsets, ddof=1) * np.sqrt(size / (smaller - size)))


def _check(features: np.ndarray, other: np.ndarray) -> None:
    if min(len(features), len(other)) < MIN_IMAGES:
        raise ValueError(f"sets of {len(features)} and {len(other)} images; allowed: at least {MIN_IMAGES} each")
    if features.shape[1] != other.shape[1]:
        raise ValueError(f"{features.shape[1]} and {other.shape[1]} features; allowed: equal numbers")
