"""Variational Bayes on finite toys: equations 1 to 5 and 8 of the report, as sums over tables of probabilities.

Nothing else here can be computed exactly for an autoencoder; what it optimises is the same. Tables hold probabilities
of the latents Z, one axis for each of Z_1 ... Z_M, given one observation x. Results have the precision of the tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def bayes_posterior(prior: torch.Tensor, likelihood: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give P(Z|x) = P(x|Z) P(Z) / P(x) and the evidence P(x) = sum_Z P(x|Z) P(Z) (report eq. 1).

    The report's denominator is printed without P(Z').

    Args:
        prior (`torch.Tensor`, any shape): P(Z), summing to 1.
        likelihood (`torch.Tensor`, same shape): P(x|Z) of the observation, in [0, 1].

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: P(Z|x), of the same shape, and P(x), a scalar.

    Raises:
        ValueError: If the tables are none of probabilities, or the observation is impossible.
    """
    _check(prior, "prior")
    if prior.shape != likelihood.shape or not bool(((likelihood >= 0) & (likelihood <= 1)).all()):
        raise ValueError(f"likelihood must have the prior's shape {tuple(prior.shape)} and values in [0, 1]")
    joint = prior * likelihood
    evidence = joint.sum()
    if not evidence > 0:
        raise ValueError("likelihood is 0 wherever the prior is not: the observation is impossible")
    return joint / evidence, evidence


def kl_divergence(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Give KL(Q || P) = sum_Z Q(Z) ln(Q(Z) / P(Z)) (report eq. 2).

    Args:
        q (`torch.Tensor`, any shape): Q(Z), summing to 1.
        p (`torch.Tensor`, same shape): P(Z|x), summing to 1.

    Returns:
        `torch.Tensor`, a scalar in [0, inf]: nats; infinite where Q has what P excludes.

    Raises:
        ValueError: If a table is none of probabilities.
    """
    _check(q, "q")
    _check(p, "p")
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum()


def evidence_lower_bound(q: torch.Tensor, joint: torch.Tensor) -> torch.Tensor:
    """Give L(Q) = -sum_Z Q(Z) (ln Q(Z) - ln P(Z, x)), so that ln P(x) = KL(Q || P(.|x)) + L(Q) (report eq. 3).

    In the line before eq. 3 the report's last sum lacks Q(Z). Equation 6 is the same bound, as an expectation.

    Args:
        q (`torch.Tensor`, any shape): Q(Z), summing to 1.
        joint (`torch.Tensor`, same shape): P(Z, x), at least 0.

    Returns:
        `torch.Tensor`, a scalar at most ln P(x): nats.

    Raises:
        ValueError: If `q` is no table of probabilities.
    """
    _check(q, "q")
    return (torch.xlogy(q, joint) - torch.xlogy(q, q)).sum()


def bound_from_parts(q: torch.Tensor, prior: torch.Tensor, likelihood: torch.Tensor) -> torch.Tensor:
    """Give the same bound as E_Q[ln P(x|Z)] - KL(Q || P(Z)), the form an autoencoder is trained on (report eq. 8).

    Args:
        q (`torch.Tensor`, any shape): Q(Z), summing to 1.
        prior (`torch.Tensor`, same shape): P(Z), summing to 1.
        likelihood (`torch.Tensor`, same shape): P(x|Z), in [0, 1].

    Returns:
        `torch.Tensor`, a scalar at most ln P(x): nats.

    Raises:
        ValueError: If a table is none of probabilities.
    """
    return torch.xlogy(q, likelihood).sum() - kl_divergence(q, prior)


def mean_field(factors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Give Q(Z) = prod_i q_i(Z_i) (report eq. 4).

    Args:
        factors (sequence of `torch.Tensor` of shape `(num_values,)`): q_i, each summing to 1.

    Returns:
        `torch.Tensor` with one axis a factor.

    Raises:
        ValueError: If a factor is no table of probabilities.
    """
    for index, factor in enumerate(factors):
        _check(factor, f"factors[{index}]")
    product = torch.ones((), dtype=factors[0].dtype)
    for axis, factor in enumerate(factors):
        product = product * _along(factor, axis, len(factors))
    return product


def best_factor(factors: Sequence[torch.Tensor], joint: torch.Tensor, index: int) -> torch.Tensor:
    """Give the q_j that makes KL(Q || P(.|x)) smallest while the other factors stay (report eq. 5).

    q_j*(Z_j) = exp(E_{i != j}[ln P(Z, x)]) / sum_{Z_j} exp(E_{i != j}[ln P(Z, x)])

    Args:
        factors (sequence of `torch.Tensor` of shape `(num_values,)`): q_i, each summing to 1.
        joint (`torch.Tensor` with one axis a factor): P(Z, x), positive.
        index (`int`): j.

    Returns:
        `torch.Tensor` of the shape of `factors[index]`, summing to 1.

    Raises:
        ValueError: If a factor is no table of probabilities.
    """
    flat = torch.full_like(factors[index], 1 / len(factors[index]))
    others = mean_field([flat if axis == index else factor for axis, factor in enumerate(factors)]) * len(flat)
    axes = [axis for axis in range(len(factors)) if axis != index]
    expected = torch.xlogy(others, joint)
    return torch.softmax(expected.sum(dim=axes) if axes else expected, dim=0)


def _along(factor: torch.Tensor, axis: int, num_axes: int) -> torch.Tensor:
    return factor.reshape([-1 if one == axis else 1 for one in range(num_axes)])


def _check(table: torch.Tensor, name: str) -> None:
    total = float(table.detach().sum())
    if not (bool((table >= 0).all()) and abs(total - 1) < 1e-5):
        raise ValueError(f"{name} must hold probabilities that sum to 1; they sum to {total:.6g}")
