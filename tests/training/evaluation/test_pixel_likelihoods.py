"""Probabilities of levels are probabilities, and those that are none are found out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import ContinuousBernoulli

from training.evaluation.pixel_likelihoods import bernoulli_mass, binned_continuous_bernoulli_nll, log_sinhc

LEVELS = 2 * torch.arange(256, dtype=torch.float64) / 255 - 1


@pytest.mark.parametrize("logit", [-800.0, -30.0, -1.0, -1e-3, 0.0, 1e-9, 0.09, 0.11, 2.0, 60.0, 5000.0])
def test_masses_sum_to_one(logit):
    nll = binned_continuous_bernoulli_nll(LEVELS, torch.tensor(logit, dtype=torch.float64))
    assert torch.isfinite(nll).all()
    assert float(torch.exp(-nll).sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("probability", [0.03, 0.4, 0.7, 0.999])
def test_masses_are_those_of_the_density(probability):
    distribution = ContinuousBernoulli(torch.tensor(probability, dtype=torch.float64))
    edges = torch.cat([torch.zeros(1), (torch.arange(255, dtype=torch.float64) + 0.5) / 255, torch.ones(1)])
    expected = distribution.cdf(edges[1:]) - distribution.cdf(edges[:-1])
    logit = torch.tensor(math.log(probability / (1 - probability)), dtype=torch.float64)
    masses = torch.exp(-binned_continuous_bernoulli_nll(LEVELS, logit))
    torch.testing.assert_close(masses, expected, atol=1e-9, rtol=1e-5)


def test_gradients_pull_towards_the_level():
    logits = torch.zeros(3, requires_grad=True)
    nll = binned_continuous_bernoulli_nll(torch.tensor([-1.0, 0.9, 1.0]), logits)
    (slope,) = torch.autograd.grad(nll.sum(), logits)
    assert torch.isfinite(slope).all()
    assert slope[0] > 0
    assert slope[2] < slope[1] < 0


def test_binary_cross_entropy_of_grey_is_no_distribution():
    masses = bernoulli_mass(torch.tensor([0.0, 3.0, -12.0], dtype=torch.float64))
    assert float(masses[0]) == pytest.approx(128)
    assert (masses > 1).all()


def test_the_series_meets_the_formula():
    u = torch.linspace(-0.2, 0.2, 401, dtype=torch.float64)
    expected = torch.where(u == 0, torch.zeros_like(u), torch.log(torch.sinh(u) / torch.where(u == 0, 1.0, u)))
    torch.testing.assert_close(log_sinhc(u), expected, atol=1e-11, rtol=0)
