"""The bound against a Gaussian toy, where every term, the best predictor and the true likelihood are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sd_pipeline.schedulers import parameterisation as p
from sd_pipeline.schedulers import variational_bound as vb
from sd_pipeline.schedulers.noise_schedules import BETA_SCHEDULES, rescale_zero_terminal_snr
from sd_pipeline.schedulers.posterior import (
    posterior_coefficients,
    posterior_mean,
    posterior_variance,
    transition_beta,
)

MEAN, VARIANCE = 0.3, 0.5  # Of the toy's data, x_0 ~ N(MEAN, VARIANCE).
STEPS = torch.arange(1, 1000)  # Timesteps whose predecessor is not the data.


def alphas_cumprod(is_zero_terminal: bool = False) -> torch.Tensor:
    betas = BETA_SCHEDULES["linear"](1000, 1e-4, 0.02).double()
    return torch.cumprod(1 - (rescale_zero_terminal_snr(betas) if is_zero_terminal else betas), dim=0)


def pairs(alphas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give alpha_bar of all timesteps and of those before them; that of the data is 1."""
    return alphas, torch.cat([alphas.new_ones(1), alphas[:-1]])


def best_x_0(x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """Give E[x_0 | x_t], what a perfect network predicts."""
    gain = alpha_bar.sqrt() * VARIANCE / (alpha_bar * VARIANCE + 1 - alpha_bar)
    return MEAN + gain * (x_t - alpha_bar.sqrt() * MEAN)


def best_variance(alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor) -> torch.Tensor:
    """Give the variance of q(x_{t-1} | x_t), which no fixed choice equals."""
    left = VARIANCE * (1 - alpha_bar) / (alpha_bar * VARIANCE + 1 - alpha_bar)
    c_0, _ = posterior_coefficients(alpha_bar, alpha_bar_prev)
    return posterior_variance(alpha_bar, alpha_bar_prev) + c_0.square() * left


def bound(x_0: torch.Tensor, alphas: torch.Tensor, variances: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Sum all terms of the bound of some data; of each, the expectation over x_t is exact.

    Terms are quadratic in epsilon, so three points of Gauss-Hermite quadrature integrate them. `scale` spoils the
    predictor.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(3)
    epsilon = torch.from_numpy(points)[:, None, None]
    density = torch.from_numpy(weights / math.sqrt(2 * math.pi))[:, None, None]
    a, a_prev = (one[:, None] for one in pairs(alphas))
    x_t = p.x_t_from(x_0, epsilon, a)
    mean = posterior_mean(scale * best_x_0(x_t, a), x_t, a, a_prev)
    log_variance = variances.log()[:, None]
    steps = vb.step_term(x_0, x_t[:, 1:], mean[:, 1:], log_variance[1:], a[1:], a_prev[1:])
    decoder = vb.gaussian_nll(x_0, mean[:, 0], log_variance[0])
    return vb.prior_term(x_0, alphas[-1]) + (density * steps).sum((0, 1)) + (density[:, 0] * decoder).sum(0)


def true_nll(x_0: torch.Tensor, alphas: torch.Tensor, variances: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Give -ln p_theta(x_0) of the same chain: every x_t of it is Gaussian, with mean and variance carried along."""
    mean, variance = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for a, a_prev, sigma in reversed(list(zip(*pairs(alphas), variances, strict=True))):
        at = [posterior_mean(scale * best_x_0(x, a), x, a, a_prev) for x in (torch.zeros(()), torch.ones(()))]
        slope = at[1] - at[0]
        mean, variance = slope * mean + at[0], slope**2 * variance + sigma
    return -Normal(mean, variance.sqrt()).log_prob(x_0)


def data() -> torch.Tensor:
    return torch.linspace(-2, 2.5, 7, dtype=torch.float64)


def test_divergence_of_gaussians():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance, other_mean, other_log_variance = torch.randn(4, 50, dtype=torch.float64, generator=generator)
    one, other = (Normal(m, (0.5 * log).exp()) for m, log in ((mean, log_variance), (other_mean, other_log_variance)))
    found = vb.gaussian_kl(mean, log_variance, other_mean, other_log_variance)
    torch.testing.assert_close(found, kl_divergence(one, other))


@pytest.mark.parametrize("is_zero_terminal", [False, True])
def test_the_bound_is_tight_for_the_exact_reverse_process(is_zero_terminal):
    alphas = alphas_cumprod(is_zero_terminal)
    variances = best_variance(*pairs(alphas))
    found, exact = bound(data(), alphas, variances), true_nll(data(), alphas, variances)
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=0)
    # The model is the data's distribution but for the prior, so this is the entropy on average.
    entropy = -Normal(MEAN, math.sqrt(VARIANCE)).log_prob(data())
    torch.testing.assert_close(exact, entropy, atol=1e-4, rtol=0)
    if is_zero_terminal:
        torch.testing.assert_close(found, entropy, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large", "best"])
def test_it_bounds_the_likelihood_of_every_model(kind, scale):
    alphas = alphas_cumprod()
    a, a_prev = pairs(alphas)
    variances = {
        "fixed_small": torch.cat([best_variance(a[:1], a_prev[:1]), posterior_variance(a[1:], a_prev[1:])]),
        "fixed_large": transition_beta(a, a_prev),
        "best": best_variance(a, a_prev),
    }[kind]
    gap = bound(data(), alphas, variances, scale) - true_nll(data(), alphas, variances, scale)
    assert (gap >= -1e-9).all()
    if kind != "best" or scale != 1:
        assert gap.min() > 1e-4


def test_the_best_predictor_is_the_conditional_expectation():
    """Any other prediction of x_0 makes the expected term of a timestep larger, and by how much is known."""
    alphas = alphas_cumprod()
    a, a_prev = alphas[400], alphas[399]
    generator = torch.Generator().manual_seed(0)
    x_t = 1.5 * torch.randn(1000, dtype=torch.float64, generator=generator)
    left = (VARIANCE * (1 - a) / (a * VARIANCE + 1 - a)).sqrt()
    points, weights = np.polynomial.hermite_e.hermegauss(3)
    x_0 = best_x_0(x_t, a) + left * torch.from_numpy(points)[:, None]
    density = torch.from_numpy(weights / math.sqrt(2 * math.pi))[:, None]
    log_variance = best_variance(a, a_prev).log()
    wrong_by = torch.tensor([0.0, 0.1, -0.3], dtype=torch.float64)[:, None, None]
    mean = posterior_mean(best_x_0(x_t, a) + wrong_by, x_t, a, a_prev)
    terms = (density * vb.step_term(x_0, x_t, mean, log_variance, a, a_prev)).sum(1)
    c_0, _ = posterior_coefficients(a, a_prev)
    more = (c_0 * wrong_by[:, 0]).square() / (2 * best_variance(a, a_prev))
    torch.testing.assert_close(terms - terms[:1], more.expand_as(terms))


@pytest.mark.parametrize("t", [1, 10, 500, 999])
def test_equations_19_20_and_23_are_one(t):
    alphas = alphas_cumprod()
    a, a_prev = alphas[t], alphas[t - 1]
    generator = torch.Generator().manual_seed(t)
    x_0, noise, predicted = torch.randn(3, 100, dtype=torch.float64, generator=generator)
    x_t = p.x_t_from(x_0, noise, a)
    for variance in (transition_beta(a, a_prev), posterior_variance(a, a_prev)):
        mean = p.mean_from_epsilon(predicted, x_t, a, a_prev)
        whole = vb.step_term(x_0, x_t, mean, variance.log(), a, a_prev)
        constant = vb.variance_term(variance, a, a_prev)
        eq_19 = vb.mean_error_term(posterior_mean(x_0, x_t, a, a_prev), mean, variance)
        eq_20 = vb.mean_error_term(p.mean_from_epsilon(noise, x_t, a, a_prev), mean, variance)
        eq_23 = vb.epsilon_weight(variance, a, a_prev) * (noise - predicted).square()
        for found in (eq_19, eq_20, eq_23):
            torch.testing.assert_close(found + constant, whole, atol=1e-9, rtol=1e-7)


def test_gradients_of_all_parameterisations_agree():
    """A network of each kind that says the same gets the same gradient with respect to what it says of x_0."""
    alphas = alphas_cumprod()
    a, a_prev = (alphas[torch.tensor([1, 40, 700])][:, None], alphas[torch.tensor([0, 39, 699])][:, None])
    generator = torch.Generator().manual_seed(0)
    x_0, noise, guess = torch.randn(3, 3, 20, dtype=torch.float64, generator=generator)
    x_t = p.x_t_from(x_0, noise, a)
    log_variance = posterior_variance(a, a_prev).log()
    kinds = {
        "sample": (lambda x: x, lambda y: y),
        "epsilon": (lambda x: p.epsilon_from_x_0(x, x_t, a), lambda y: p.x_0_from_epsilon(y, x_t, a)),
        "v_prediction": (lambda x: p.velocity_from_x_0(x, x_t, a), lambda y: p.x_0_from_velocity(y, x_t, a)),
        "mean": (lambda x: p.mean_from_x_0(x, x_t, a, a_prev), lambda y: p.x_0_from_mean(y, x_t, a, a_prev)),
    }
    gradients, terms = {}, {}
    for kind, (say, understand) in kinds.items():
        x = guess.clone().requires_grad_()
        mean = posterior_mean(understand(say(x)), x_t, a, a_prev)
        term = vb.step_term(x_0, x_t, mean, log_variance, a, a_prev)
        (gradients[kind],) = torch.autograd.grad(term.sum(), x)
        terms[kind] = term
    for kind in kinds:
        torch.testing.assert_close(terms[kind], terms["sample"], atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(gradients[kind], gradients["sample"], atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("std", [1e-3, 0.01, 0.1, 1.0, 20.0])
@pytest.mark.parametrize("mean", [-3.0, -1.0, 0.001, 0.5, 1.0, 1.7])
def test_the_masses_of_all_levels_sum_to_one(mean, std):
    levels = 2 * torch.arange(vb.NUM_LEVELS, dtype=torch.float64) / 255 - 1
    log_variance = torch.tensor(2 * math.log(std), dtype=torch.float64)
    masses = torch.exp(-vb.discretised_gaussian_nll(levels, torch.tensor(mean, dtype=torch.float64), log_variance))
    assert float(masses.sum()) == pytest.approx(1, abs=1e-9)


def test_masses_against_the_normal_distribution_and_far_from_it():
    levels = 2 * torch.arange(vb.NUM_LEVELS, dtype=torch.float64) / 255 - 1
    normal = Normal(torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64))
    expected = normal.cdf(levels + 1 / 255) - normal.cdf(levels - 1 / 255)
    log_variance = torch.tensor(2 * math.log(0.2), dtype=torch.float64)
    masses = torch.exp(-vb.discretised_gaussian_nll(levels, normal.loc, log_variance))
    torch.testing.assert_close(masses[1:-1], expected[1:-1], atol=1e-14, rtol=1e-9)
    # A thousand standard deviations away the mass is below every float, its logarithm is not; and it has a slope.
    mean = torch.tensor([1.0, -1.0, 0.999], dtype=torch.float32, requires_grad=True)
    nll = vb.discretised_gaussian_nll(torch.tensor([-1.0, 1.0, 1.0]), mean, torch.tensor(2 * math.log(2e-3)))
    (slope,) = torch.autograd.grad(nll.sum(), mean)
    assert torch.isfinite(nll).all()
    assert nll[:2].min() > 4e5
    assert torch.isfinite(slope).all()
    assert slope[0] > 1e5
    assert slope[1] < -1e5


def test_bits():
    assert float(vb.bits_per_dimension(torch.tensor(8 * math.log(2) * 12), 12)) == pytest.approx(8)
