"""Bits against what is known: a Gaussian toy through all timesteps, and the bound of an autoencoder."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch.distributions import Normal

from sd_pipeline import SDDDPMScheduler
from sd_pipeline.models.gaussian import DiagonalGaussian
from sd_pipeline.schedulers.bound_of_schedule import BoundOfSchedule
from tests.components import tiny_vae
from training.evaluation.likelihood import (
    all_terms,
    code_lengths,
    drawn_timesteps,
    importance_of_timesteps,
    term_of_timestep,
)
from training.evaluation.pixel_likelihoods import PixelLikelihood

MEAN, VARIANCE = 0.3, 0.5


def toy(variance_type: str = "learned_range") -> tuple[BoundOfSchedule, SDDDPMScheduler]:
    schedule = SDDDPMScheduler(
        prediction_type="sample", variance_type=variance_type, clip_sample=False, rescale_betas_zero_snr=True
    )
    return BoundOfSchedule(schedule, "gaussian"), schedule


def perfect(bound: BoundOfSchedule):
    """Make the network that knows E[x_0 | x_t], and the variance of q(x_{t-1} | x_t), of x_0 ~ N(MEAN, VARIANCE)."""
    alphas = bound.scheduler.alphas_cumprod

    def predict(x_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        x_t = x_t.double()
        a = alphas[timesteps].view(-1, 1, 1, 1)
        before = torch.where(timesteps > 0, alphas[timesteps - 1], 1.0).view(-1, 1, 1, 1)
        spread = a * VARIANCE + 1 - a
        x_0 = MEAN + a.sqrt() * VARIANCE / spread * (x_t - a.sqrt() * MEAN)
        beta = 1 - a / before
        small = (1 - before) / (1 - a) * beta
        left = before * (beta / (1 - a)) ** 2 * VARIANCE * (1 - a) / spread
        first = (1 - alphas[0]) / (1 - alphas[1]) * (1 - alphas[1] / alphas[0])
        low = torch.where(small > 0, small, first)
        fraction = ((small + left).log() - low.log()) / (beta.log() - low.log())
        return torch.cat([x_0, (2 * fraction - 1).expand_as(x_0)], dim=1)

    return predict


def data(count: int = 6) -> torch.Tensor:
    return torch.linspace(-1.5, 2, count, dtype=torch.float64).view(-1, 1, 1, 1)


def test_all_terms_of_a_perfect_network_sum_to_the_entropy():
    """Terms are quadratic in the noise, so noise of +1 and -1 has exactly their expectation."""
    bound, _ = toy()
    x_0 = data()
    terms = sum(all_terms(bound, perfect(bound), x_0, lambda s=s: s * torch.ones_like(x_0)) for s in (1, -1)) / 2
    assert terms.shape == (6, 1000)
    found = bound.prior(x_0) + terms.sum(1)
    exact = -Normal(MEAN, math.sqrt(VARIANCE)).log_prob(x_0.flatten())
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=0)


def test_estimates_of_the_sum_are_unbiased_and_importance_helps():
    bound, _ = toy("fixed_large")
    predict = lambda x_t, t: 0.8 * x_t  # noqa: E731
    x_0 = data(1)
    terms = all_terms(bound, predict, x_0, lambda: torch.ones_like(x_0))[0]
    total, even = float(terms.sum()), torch.full((1000,), 1e-3, dtype=torch.float64)
    importance = importance_of_timesteps(terms.square())
    assert float(importance.sum()) == pytest.approx(1)
    assert importance.min() >= 0.9e-5
    errors = {}
    for name, probabilities in (("even", even), ("importance", importance)):
        uniforms = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        t = drawn_timesteps(probabilities, uniforms)
        many = x_0.expand(4000, -1, -1, -1)
        estimates = term_of_timestep(bound, predict, many, torch.ones_like(many), t) / probabilities[t]
        errors[name] = float(estimates.std()) / math.sqrt(4000)
        assert float(estimates.mean()) == pytest.approx(total, abs=4 * errors[name] + 1e-6)
    assert errors["importance"] < 0.3 * errors["even"]


def test_timesteps_are_drawn_as_often_as_asked():
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    t = drawn_timesteps(probabilities, (torch.arange(1000) + 0.5) / 1000)
    assert torch.bincount(t, minlength=4).tolist() == [100, 0, 600, 300]
    assert drawn_timesteps(probabilities, torch.tensor([1.0])) == 3


@torch.no_grad()
def test_terms_of_the_autoencoder_are_those_of_its_bound():
    """With N(0, I) in raw coordinates as the prior, they are the evidence lower bound of the autoencoder."""
    vae = tiny_vae(scaling_factor=0.5)
    generator = torch.Generator().manual_seed(0)
    pixel_values = 2 * torch.randint(1, 255, (2, 3, 16, 16), generator=generator) / 255 - 1
    posterior = vae.encode(pixel_values).latent_dist
    number = 4000
    totals = torch.zeros(number, 2, dtype=torch.float64)
    for row in range(number // 100):
        noise = torch.randn(100, 2, *posterior.mean.shape[1:], generator=generator)
        for k in range(100):
            z = posterior.mean + posterior.std * noise[k]
            totals[100 * row + k] = posterior.log_prob(z) + 0.5 * (z.square() + math.log(2 * math.pi)).sum((1, 2, 3))
    error = totals.std(0) / math.sqrt(number)
    assert ((totals.mean(0) - posterior.kl()).abs() < 5 * error).all()

    lengths = code_lengths(vae, pixel_values, noise[0], PixelLikelihood("gaussian", 0.5))
    raw = posterior.mean + posterior.std * noise[0]
    torch.testing.assert_close(lengths.latents, 0.5 * raw)
    # Half the size, twice the density, in each of the latents' elements.
    density = posterior.log_prob(raw).double() + raw[0].numel() * math.log(2)
    torch.testing.assert_close(lengths.posterior, density, rtol=1e-4, atol=1e-2)
    normal = Normal(vae.decode(raw).sample.double(), 0.5)
    mass = normal.cdf(pixel_values.double() + 1 / 255) - normal.cdf(pixel_values.double() - 1 / 255)
    torch.testing.assert_close(lengths.reconstruction, -mass.log().sum((1, 2, 3)))


class LinearAutoencoder:
    """z ~ N(MEAN, VARIANCE) and x = z + deviation * noise, with the posterior that follows from them."""

    config: ClassVar = {"scaling_factor": 1.0}
    dtype = torch.float64

    def __init__(self, deviation: float) -> None:
        self.variance = deviation**2

    def encode(self, x: torch.Tensor) -> SimpleNamespace:
        variance = 1 / (1 / VARIANCE + 1 / self.variance)
        mean = variance * (MEAN / VARIANCE + x / self.variance)
        return SimpleNamespace(latent_dist=DiagonalGaussian(mean, torch.full_like(mean, variance).log()))

    def decode(self, z: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=z)


def test_bits_under_a_whole_model_are_those_of_the_marginal_distribution():
    """Posterior, decoder and denoiser of a linear model are perfect: the bound is -ln p(x), x ~ N(MEAN, V + S^2)."""
    deviation, (bound, _) = 0.4, toy()
    x = 2 * torch.arange(15, 245, 40, dtype=torch.float64).view(-1, 1, 1, 1) / 255 - 1
    totals = torch.zeros(len(x), dtype=torch.float64)
    # What is quadratic in noise has its expectation at +1 and -1.
    for of_posterior, of_diffusion in itertools.product((1, -1), repeat=2):
        noise = torch.full_like(x, of_posterior)
        lengths = code_lengths(LinearAutoencoder(deviation), x, noise, PixelLikelihood("gaussian", deviation))
        terms = all_terms(bound, perfect(bound), lengths.latents, lambda by=of_diffusion: by * torch.ones_like(x))
        rate = lengths.posterior + bound.prior(lengths.latents) + terms.sum(1)
        totals += (lengths.reconstruction + rate) / 4
    marginal = Normal(MEAN, math.sqrt(VARIANCE + deviation**2))
    mass = (marginal.cdf(x + 1 / 255) - marginal.cdf(x - 1 / 255)).flatten()
    torch.testing.assert_close(totals, -mass.log(), atol=1e-4, rtol=0)
