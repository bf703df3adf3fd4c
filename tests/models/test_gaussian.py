from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from sd_pipeline.models.gaussian import CholeskyGaussian, DiagonalGaussian

SHAPE = (3, 4, 2, 2)


@pytest.fixture
def moments() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    logvar = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    return mean, logvar


def reference(mean: torch.Tensor, logvar: torch.Tensor) -> Independent:
    return Independent(Normal(mean, (0.5 * logvar).exp()), 3)


def standard_normal() -> Independent:
    return reference(torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64))


def test_samples_have_the_moments(moments):
    mean, logvar = (moment[:1].expand(20_000, *SHAPE[1:]) for moment in moments)
    sample = DiagonalGaussian(mean, logvar).sample(torch.Generator().manual_seed(1))
    # Five standard errors of the mean and of the variance.
    variance = logvar[0].exp()
    assert torch.all((sample.mean(0) - mean[0]).abs() < 5 * (variance / 20_000).sqrt())
    assert torch.all((sample.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / 20_000))


def test_sample_follows_the_generator(moments):
    posterior = DiagonalGaussian(*moments)
    first, again = (posterior.sample(torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    # One generator a sample: a sample does not depend on the rest of its batch.
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8, 9)]
    alone = DiagonalGaussian(moments[0][1:2], moments[1][1:2]).sample([torch.Generator().manual_seed(8)])
    assert torch.equal(posterior.sample(generators)[1:2], alone)


def test_kl_equals_torch_distributions(moments):
    posterior = DiagonalGaussian(*moments)
    torch.testing.assert_close(posterior.kl(), kl_divergence(reference(*moments), standard_normal()))
    other = (moments[0].flip(0) + 0.3, moments[1].flip(1))
    expected = kl_divergence(reference(*moments), reference(*other))
    torch.testing.assert_close(posterior.kl(DiagonalGaussian(*other)), expected)
    torch.testing.assert_close(posterior.kl(posterior), torch.zeros(3, dtype=torch.float64))


def test_kl_equals_monte_carlo(moments):
    """KL(q || p) = E_q[ln q - ln p]."""
    num_draws = 20_000
    mean, logvar = (moment[:1].expand(num_draws, *SHAPE[1:]) for moment in moments)
    posterior = DiagonalGaussian(mean, logvar)
    z = posterior.sample(torch.Generator().manual_seed(2))
    prior = DiagonalGaussian(torch.zeros_like(z), torch.zeros_like(z))
    log_ratio = posterior.log_prob(z) - prior.log_prob(z)
    standard_error = log_ratio.std() / math.sqrt(num_draws)
    assert abs(log_ratio.mean() - posterior.kl()[0]) < 5 * standard_error


def test_isotropic_kl_is_equation_9_corrected(moments):
    mean = moments[0]
    sigma = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    num_elements = mean[0].numel()
    squared_norm = mean.flatten(1).pow(2).sum(1)
    expected = 0.5 * (num_elements * sigma**2 + squared_norm - num_elements - 2 * num_elements * sigma.log())
    logvar = (2 * sigma.log()).view(-1, 1, 1, 1).expand_as(mean)
    torch.testing.assert_close(DiagonalGaussian(mean, logvar).kl(), expected)


def test_log_prob_equals_torch_distributions(moments):
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    posterior = DiagonalGaussian(*moments)
    torch.testing.assert_close(posterior.log_prob(z), reference(*moments).log_prob(z))
    torch.testing.assert_close(posterior.nll(z), -posterior.log_prob(z))


def test_reparameterised_gradient(moments):
    """d/dmean E|z|^2 = 2 mean and d/dlogvar E|z|^2 = var, by differentiating samples (report, eq. 11)."""
    num_draws = 40_000
    mean, logvar = (moment[0].clone().requires_grad_() for moment in moments)
    z = DiagonalGaussian(mean.expand(num_draws, *SHAPE[1:]), logvar.expand(num_draws, *SHAPE[1:])).sample(
        torch.Generator().manual_seed(4)
    )
    z.pow(2).sum().div(num_draws).backward()
    torch.testing.assert_close(mean.grad, 2 * mean.detach(), rtol=0.05, atol=0.1)
    torch.testing.assert_close(logvar.grad, logvar.detach().exp(), rtol=0.1, atol=0.1)


def test_everything_that_diffusers_posterior_has():
    parameters = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(6)) * 30
    stock = DiagonalGaussianDistribution(parameters)
    ours = DiagonalGaussian(*parameters.chunk(2, dim=1))
    assert ours.logvar.min() == -30.0
    assert ours.logvar.max() == 20.0
    for name in ("mean", "logvar", "std", "var"):
        assert torch.equal(getattr(ours, name), getattr(stock, name))
    assert torch.equal(ours.mode(), stock.mode())
    assert torch.equal(ours.sample(torch.Generator().manual_seed(0)), stock.sample(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(ours.kl(), stock.kl())
    torch.testing.assert_close(ours.nll(stock.mean + 1), stock.nll(stock.mean + 1))
    torch.testing.assert_close(ours.nll(stock.mean, dims=(1,)), stock.nll(stock.mean, dims=[1]))
    assert torch.equal(DiagonalGaussianDistribution(ours.parameters).std, stock.std)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    posterior = DiagonalGaussian(torch.ones(2, 4, 64, 64, dtype=dtype), torch.zeros(2, 4, 64, 64, dtype=dtype))
    assert posterior.sample().dtype == dtype
    # 8,192 nats a sample: sums of that size need float32.
    assert torch.equal(posterior.kl(), torch.full((2,), 0.5 * 4 * 64 * 64))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        DiagonalGaussian(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 1, 1))


def full_gaussian(seed: int = 0) -> CholeskyGaussian:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(2, 12, 12, dtype=torch.float64, generator=generator).tril(-1) * 0.3
    diagonal = torch.rand(2, 12, dtype=torch.float64, generator=generator) + 0.4
    mean = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=generator)
    return CholeskyGaussian(mean, factor + torch.diag_embed(diagonal))


def test_full_covariance_against_torch():
    gaussian = full_gaussian()
    expected = MultivariateNormal(gaussian.mean.flatten(1), covariance_matrix=gaussian.covariance)
    prior = MultivariateNormal(torch.zeros(12, dtype=torch.float64), torch.eye(12, dtype=torch.float64))
    z = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gaussian.log_prob(z), expected.log_prob(z.flatten(1)))
    torch.testing.assert_close(gaussian.kl(), kl_divergence(expected, prior))
    torch.testing.assert_close(gaussian.var.flatten(1), expected.variance)
    other = DiagonalGaussian(z, 0.3 * z.flip(0))
    diagonal = MultivariateNormal(z.flatten(1), covariance_matrix=torch.diag_embed(other.var.flatten(1)))
    torch.testing.assert_close(gaussian.kl(other), kl_divergence(expected, diagonal))
    # The variance of an element given those before it.
    covariance = gaussian.covariance[0]
    known, crossing = covariance[:-1, :-1], covariance[-1, :-1]
    conditional = covariance[-1, -1] - crossing @ torch.linalg.solve(known, crossing)
    torch.testing.assert_close(gaussian.logvar[0].flatten()[-1], conditional.log())


def test_full_covariance_against_monte_carlo():
    gaussian, number = full_gaussian(), 50_000
    many = CholeskyGaussian(gaussian.mean[:1].expand(number, -1, -1, -1), gaussian.factor[:1].expand(number, -1, -1))
    z = many.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.mean(0), gaussian.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(z.flatten(1).T), gaussian.covariance[0], atol=0.04, rtol=0)
    prior = -0.5 * (z.flatten(1).square().sum(1) + 12 * math.log(2 * math.pi))
    differences = many.log_prob(z) - prior
    error = float(differences.std()) / math.sqrt(number)
    assert float(differences.mean()) == pytest.approx(float(gaussian.kl()[0]), abs=4 * error)


def test_a_diagonal_factor_is_the_diagonal_gaussian():
    gaussian = full_gaussian()
    std = gaussian.factor.diagonal(dim1=1, dim2=2)
    full = CholeskyGaussian(gaussian.mean, torch.diag_embed(std))
    diagonal = DiagonalGaussian(gaussian.mean, 2 * std.log().view_as(gaussian.mean))
    torch.testing.assert_close(full.kl(), diagonal.kl())
    noise = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    again = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    z = full.sample(noise)
    torch.testing.assert_close(z, diagonal.sample(again))
    torch.testing.assert_close(full.log_prob(z), diagonal.log_prob(z))


def test_gradients_of_full_covariance_reach_its_parameters():
    """Eq. 11: the gradient of E[f(z)] through samples is that of the closed form, here for f(z) = |z|^2."""
    gaussian, number = full_gaussian(), 100_000
    mean, factor = gaussian.mean[:1].clone().requires_grad_(), gaussian.factor[:1].clone().requires_grad_()
    many = CholeskyGaussian(mean.expand(number, -1, -1, -1), factor.expand(number, -1, -1))
    loss = many.sample(torch.Generator().manual_seed(0)).square().sum() / number
    found = torch.autograd.grad(loss, (mean, factor))
    exact = torch.autograd.grad(mean.square().sum() + factor.square().sum(), (mean, factor))
    torch.testing.assert_close(found[0], exact[0], atol=0.05, rtol=0)
    torch.testing.assert_close(found[1].tril(), exact[1].tril(), atol=0.1, rtol=0)


def test_impossible_factors_are_refused():
    mean = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"factor must have shape \(1, 4, 4\) for this mean, got \(1, 3, 3\)"):
        CholeskyGaussian(mean, torch.eye(3)[None])
    for factor in (torch.ones(1, 4, 4), -torch.eye(4)[None]):
        with pytest.raises(ValueError, match=r"lower triangular with a positive diagonal"):
            CholeskyGaussian(mean, factor)
