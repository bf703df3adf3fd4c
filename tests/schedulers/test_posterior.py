"""The posterior against Bayes' rule, worked out here from the two Gaussians of the forward process in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sd_pipeline import SDDDPMScheduler
from sd_pipeline.pipelines.denoising import DenoisingInputs, denoise
from sd_pipeline.schedulers import parameterisation, variational_bound
from sd_pipeline.schedulers.noise_schedules import BETA_SCHEDULES
from sd_pipeline.schedulers.posterior import posterior_mean, posterior_variance, reverse_std, transition_beta

STEPS = [(1, 0), (500, 499), (999, 998), (999, 500), (600, 20), (20, 0)]


def alphas_cumprod(schedule: str = "linear") -> torch.Tensor:
    return torch.cumprod(1 - BETA_SCHEDULES[schedule](1000, 1e-4, 0.02).double(), dim=0)


def bayes(x_0: torch.Tensor, x_t: torch.Tensor, a_t: torch.Tensor, a_s: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Multiply q(x_s | x_0) = N(sqrt(a_s) x_0, 1 - a_s) by q(x_t | x_s) = N(sqrt(a_t / a_s) x_s, 1 - a_t / a_s)."""
    slope, spread = (a_t / a_s).sqrt(), 1 - a_t / a_s
    precision = 1 / (1 - a_s) + slope**2 / spread
    return (a_s.sqrt() * x_0 / (1 - a_s) + slope * x_t / spread) / precision, 1 / precision


@pytest.mark.parametrize("schedule", list(BETA_SCHEDULES))
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_mean_and_variance_are_those_of_bayes(schedule: str, t: int, s: int) -> None:
    a = alphas_cumprod(schedule)
    x_0, x_t = torch.randn(2, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, variance = bayes(x_0, x_t, a[t], a[s])
    torch.testing.assert_close(posterior_mean(x_0, x_t, a[t], a[s]), mean, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(posterior_variance(a[t], a[s]), variance, atol=1e-12, rtol=1e-10)


def test_bayes_is_checked_by_integration() -> None:
    """The conjugate formula above, against the normalised product of densities on a grid."""
    a = alphas_cumprod()
    a_t, a_s, x_0, x_t = a[600], a[300], torch.tensor(0.7), torch.tensor(-0.4)
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    log_density = -((grid - a_s.sqrt() * x_0) ** 2) / (2 * (1 - a_s))
    log_density = log_density - (x_t - (a_t / a_s).sqrt() * grid) ** 2 / (2 * (1 - a_t / a_s))
    weights = log_density.softmax(dim=0)
    mean = (weights * grid).sum()
    assert posterior_mean(x_0, x_t, a_t, a_s).item() == pytest.approx(mean.item(), abs=1e-6)
    assert posterior_variance(a_t, a_s).item() == pytest.approx((weights * (grid - mean) ** 2).sum().item(), abs=1e-6)


def test_eq_18_as_printed_is_not_the_posterior() -> None:
    a = alphas_cumprod()
    t = 500
    a_t, a_prev, beta = a[t], a[t - 1], 1 - a[t] / a[t - 1]
    x_0, x_t = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-0.4, dtype=torch.float64)
    mean, variance = bayes(x_0, x_t, a_t, a_prev)
    first_as_printed = (a_t - 1).sqrt() * beta / (1 - a_t)
    first, second = a_prev.sqrt() * beta / (1 - a_t), (1 - beta).sqrt() * (1 - a_prev) / (1 - a_t)
    second_as_printed = a_t.sqrt() * (1 - a_prev) / (1 - a_t)
    assert first_as_printed.isnan()
    torch.testing.assert_close(first * x_0 + second * x_t, mean)
    assert abs(first * x_0 + second_as_printed * x_t - mean) > 0.1
    torch.testing.assert_close((1 - a_prev) / (1 - a_t) * beta, variance)


@pytest.mark.parametrize("t", [1, 500, 999])
def test_eq_20_and_21_are_eq_18_in_terms_of_epsilon(t: int) -> None:
    a = alphas_cumprod()
    x_0, epsilon = torch.randn(2, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x_t = a[t].sqrt() * x_0 + (1 - a[t]).sqrt() * epsilon
    mean = parameterisation.mean_from_epsilon(epsilon, x_t, a[t], a[t - 1])
    torch.testing.assert_close(mean, posterior_mean(x_0, x_t, a[t], a[t - 1]), atol=1e-10, rtol=0)


def test_eq_23_weights_the_error_of_epsilon_like_eq_19_that_of_the_mean() -> None:
    a, t = alphas_cumprod(), 300
    beta = 1 - a[t] / a[t - 1]
    x_t, epsilon, guess = torch.randn(3, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    means = [parameterisation.mean_from_epsilon(e, x_t, a[t], a[t - 1]) for e in (epsilon, guess)]
    weight = beta**2 / ((1 - beta) * (1 - a[t]))
    torch.testing.assert_close((means[0] - means[1]).square(), weight * (epsilon - guess).square())


def test_at_the_data_the_posterior_is_a_point() -> None:
    a = alphas_cumprod()
    x_0, x_t = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    one = torch.ones((), dtype=torch.float64)
    for t in (0, 400):
        torch.testing.assert_close(posterior_mean(x_0, x_t, a[t], one), x_0)
        assert posterior_variance(a[t], one) == 0


def test_the_variances_are_ordered_and_the_learned_range_spans_them() -> None:
    a = alphas_cumprod()
    a_t, a_s = a[500], a[400]
    small, large = reverse_std("fixed_small", a_t, a_s), reverse_std("fixed_large", a_t, a_s)
    assert 0 < small < large
    torch.testing.assert_close(large**2, transition_beta(a_t, a_s))
    torch.testing.assert_close(reverse_std("fixed_small_log", a_t, a_s), small)
    torch.testing.assert_close(reverse_std("fixed_large_log", a_t, a_s), large)
    ends = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    wanted = torch.stack([small, (small * large).sqrt(), large])
    torch.testing.assert_close(reverse_std("learned_range", a_t, a_s, ends), wanted)
    learned = reverse_std("learned", a_t, a_s, torch.tensor([0.25, -1.0]))
    assert learned.tolist() == [0.5, 0.0]


def test_a_learned_range_adds_no_noise_in_the_step_to_the_data() -> None:
    """Where beta_tilde is 0 its logarithm has no meaning, and v above 1 would make any variance of it."""
    a, one = alphas_cumprod(), torch.ones((), dtype=torch.float64)
    v = torch.tensor([-1.0, 0.5, 1.9], dtype=torch.float64)
    assert reverse_std("learned_range", a[9], one, v).tolist() == [0, 0, 0]
    # A likelihood gives beta_tilde a least value, and has a density there.
    assert (reverse_std("learned_range", a[0], one, v, least=posterior_variance(a[1], a[0])) > 0).all()


def expectation(terms: torch.Tensor, num_variables: int) -> torch.Tensor:
    """Average over standard normal variables, the first axes; exact for the quadratics of the bound."""
    weights = torch.from_numpy(np.polynomial.hermite_e.hermegauss(3)[1] / math.sqrt(2 * math.pi))
    for _ in range(num_variables):
        terms = (weights.reshape(-1, *[1] * (terms.ndim - 1)) * terms).sum(0)
    return terms


def test_eq_14_and_eq_16_are_one_bound() -> None:
    """Eq. 14 from the forward steps of eq. 13 alone, eq. 16 from posteriors: the same number for any linear mean."""
    betas = torch.linspace(0.02, 0.4, 12, dtype=torch.float64)
    a = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, dim=0)])
    x_0 = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
    points = torch.from_numpy(np.polynomial.hermite_e.hermegauss(3)[0])
    first, second = points[:, None, None], points[None, :, None]
    slopes, shifts, variances = (
        torch.rand(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) + 0.2
    )

    def normal(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        return -0.5 * ((x - mean).square() / variance + (2 * math.pi * variance).log())

    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    eq_14 = -expectation(normal(a[-1].sqrt() * x_0 + (1 - a[-1]).sqrt() * points[:, None], zero, one), 1)
    eq_16 = variational_bound.prior_term(x_0, a[-1])
    for t in range(1, 13):
        beta, mean = betas[t - 1], lambda x_t, t=t: slopes[t - 1] * x_t + shifts[t - 1]
        x_before = a[t - 1].sqrt() * x_0 + (1 - a[t - 1]).sqrt() * first
        x_t = (1 - beta).sqrt() * x_before + beta.sqrt() * second
        step = normal(x_before, mean(x_t), variances[t - 1]) - normal(x_t, (1 - beta).sqrt() * x_before, beta)
        eq_14 = eq_14 - expectation(step, 2)
        x_t = a[t].sqrt() * x_0 + (1 - a[t]).sqrt() * points[:, None]
        log_variance = variances[t - 1].log()
        if t == 1:
            term = variational_bound.gaussian_nll(x_0, mean(x_t), log_variance)
        else:
            term = variational_bound.step_term(x_0, x_t, mean(x_t), log_variance, a[t], a[t - 1])
        eq_16 = eq_16 + expectation(term, 1)
    torch.testing.assert_close(eq_16, eq_14, atol=1e-9, rtol=0)


class BestPredictor(nn.Module):
    """E[epsilon | x_t] where x_0 ~ N(0.3, 0.5)."""

    def __init__(self, scheduler: SDDDPMScheduler) -> None:
        super().__init__()
        self.scheduler = scheduler

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
        a = self.scheduler.alphas_cumprod[timestep]
        return ((1 - a).sqrt() * (sample - a.sqrt() * 0.3) / (a * 0.5 + 1 - a),)


def test_algorithm_2_line_by_line() -> None:
    scheduler = SDDDPMScheduler(num_train_timesteps=20, beta_end=0.5, variance_type="fixed_large", clip_sample=False)
    network = BestPredictor(scheduler)
    x = start = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for t in range(20, 0, -1):  # The report's t; the code's is t - 1.
        beta, alpha_bar = scheduler.betas[t - 1], scheduler.alphas_cumprod[t - 1]
        z = torch.randn(x.shape, generator=generator) if t > 1 else torch.zeros(())
        (epsilon,) = network(x, torch.tensor(t - 1))
        x = (x - beta / (1 - alpha_bar).sqrt() * epsilon) / (1 - beta).sqrt() + beta.sqrt() * z
    inputs = DenoisingInputs(start, scheduler.timesteps, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(denoise(network, scheduler, inputs), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_algorithm_2_with_the_best_predictor_draws_the_data(variance_type: str) -> None:
    """Over a thousand steps both choices of sigma_t give the data's distribution, here N(0.3, 0.5)."""
    scheduler = SDDDPMScheduler(variance_type=variance_type, clip_sample=False)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 1, 150, 150, generator=generator)
    inputs = DenoisingInputs(latents, scheduler.timesteps, generator=generator)
    drawn = denoise(BestPredictor(scheduler), scheduler, inputs).double()
    error = 4 / latents.numel() ** 0.5
    assert drawn.mean().item() == pytest.approx(0.3, abs=error * 0.5**0.5)
    assert drawn.var().item() == pytest.approx(0.5, rel=error * 2**0.5 + 0.01)
