"""Each identity of variational Bayes, on tables small enough to sum."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sd_pipeline.models.variational_bayes import (
    bayes_posterior,
    best_factor,
    bound_from_parts,
    evidence_lower_bound,
    kl_divergence,
    mean_field,
)

SHAPE = (3, 4, 2)


def table(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, dtype=torch.float64, generator=generator) + 0.05
    return values / values.sum()


def toy() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return table(0, *SHAPE), torch.rand(SHAPE, dtype=torch.float64, generator=generator)


def test_bayes_inverts_the_likelihood():
    """The posterior is how often each Z has made the observation, among all that have made it."""
    prior, likelihood = toy()
    posterior, evidence = bayes_posterior(prior, likelihood)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.multinomial(prior.flatten(), 400_000, replacement=True, generator=generator)
    is_seen = torch.rand(len(drawn), dtype=torch.float64, generator=generator) < likelihood.flatten()[drawn]
    counts = torch.bincount(drawn[is_seen], minlength=prior.numel()).double()
    torch.testing.assert_close(counts / counts.sum(), posterior.flatten(), atol=3e-3, rtol=0)
    assert float(is_seen.double().mean()) == pytest.approx(float(evidence), abs=3e-3)
    assert float(posterior.sum()) == pytest.approx(1, abs=1e-12)


def test_divergence_is_zero_only_for_equals():
    q, p = table(1, *SHAPE), table(2, *SHAPE)
    assert float(kl_divergence(q, p)) > 1e-3
    assert float(kl_divergence(q, q)) == pytest.approx(0, abs=1e-12)
    certain = torch.tensor([1.0, 0.0])
    assert float(kl_divergence(certain, torch.tensor([0.25, 0.75]))) == pytest.approx(1.3862943)
    assert kl_divergence(torch.tensor([0.5, 0.5]), certain) == torch.inf


@pytest.mark.parametrize("seed", range(5))
def test_evidence_is_divergence_and_bound(seed):
    prior, likelihood = toy()
    posterior, evidence = bayes_posterior(prior, likelihood)
    q = table(seed + 10, *SHAPE)
    bound = evidence_lower_bound(q, prior * likelihood)
    torch.testing.assert_close(kl_divergence(q, posterior) + bound, evidence.log())
    torch.testing.assert_close(bound_from_parts(q, prior, likelihood), bound)
    assert bound < evidence.log()
    torch.testing.assert_close(evidence_lower_bound(posterior, prior * likelihood), evidence.log())


def test_a_product_of_factors_has_them_as_marginals():
    factors = [table(20 + axis, size) for axis, size in enumerate(SHAPE)]
    q = mean_field(factors)
    assert q.shape == SHAPE
    for axis, factor in enumerate(factors):
        torch.testing.assert_close(q.sum([other for other in range(3) if other != axis]), factor)


@pytest.mark.parametrize("index", range(3))
def test_no_other_factor_is_better(index):
    prior, likelihood = toy()
    joint = prior * likelihood
    factors = [table(30 + axis, size) for axis, size in enumerate(SHAPE)]

    def bound(factor: torch.Tensor) -> torch.Tensor:
        return evidence_lower_bound(mean_field([*factors[:index], factor, *factors[index + 1 :]]), joint)

    best = best_factor(factors, joint, index)
    for seed in range(50):
        assert bound(best) > bound(table(100 + seed, SHAPE[index]))
    # At the best one nothing is gained to first order, in whatever direction probability is moved.
    logits = best.log().requires_grad_()
    (gradient,) = torch.autograd.grad(bound(logits.softmax(0)), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_one_factor_after_the_other_climbs_to_the_posterior_where_it_factorises():
    prior = mean_field([table(40 + axis, size) for axis, size in enumerate(SHAPE)])
    generator = torch.Generator().manual_seed(3)
    rates = [torch.rand(size, dtype=torch.float64, generator=generator) for size in SHAPE]
    likelihood = rates[0][:, None, None] * rates[1][None, :, None] * rates[2]
    posterior, evidence = bayes_posterior(prior, likelihood)
    factors = [table(50 + axis, size) for axis, size in enumerate(SHAPE)]
    bounds = [evidence_lower_bound(mean_field(factors), prior * likelihood)]
    for index in range(3):
        factors[index] = best_factor(factors, prior * likelihood, index)
        bounds.append(evidence_lower_bound(mean_field(factors), prior * likelihood))
    assert all(after >= before - 1e-12 for before, after in pairwise(bounds))
    torch.testing.assert_close(bounds[-1], evidence.log())
    torch.testing.assert_close(mean_field(factors), posterior)


def test_of_one_factor_the_best_is_the_posterior():
    prior, likelihood = table(60, 5), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    torch.testing.assert_close(
        best_factor([table(61, 5)], prior * likelihood, 0), bayes_posterior(prior, likelihood)[0]
    )


def test_tables_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"prior must hold probabilities that sum to 1; they sum to 2"):
        bayes_posterior(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"likelihood must have the prior's shape \(2,\) and values in \[0, 1\]"):
        bayes_posterior(torch.ones(2) / 2, torch.tensor([0.5, 2.0]))
    with pytest.raises(ValueError, match=r"the observation is impossible"):
        bayes_posterior(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"factors\[1\] must hold probabilities"):
        mean_field([torch.ones(1), torch.tensor([1.5, -0.5])])


def test_the_report_s_equation_1_and_the_line_before_equation_3_as_printed_are_wrong():
    """Without P(Z') the denominator is no evidence; without Q(Z) the last sum counts ln P(x) once for every Z."""
    prior, likelihood = toy()
    posterior, evidence = bayes_posterior(prior, likelihood)
    assert float((prior * likelihood / likelihood.sum()).sum()) < 0.1
    q = table(10, *SHAPE)
    divergence, bound = kl_divergence(q, posterior), evidence_lower_bound(q, prior * likelihood)
    torch.testing.assert_close(divergence, -bound + (q * evidence.log()).sum())
    torch.testing.assert_close(-bound + torch.ones(SHAPE).sum() * evidence.log() - divergence, 23 * evidence.log())


def test_only_the_gradient_in_theta_goes_inside_the_expectation():
    """Section 2.4: z ~ q_phi depends on phi. Inside, its gradient vanishes; by the score function it is right."""
    prior, _ = toy()
    generator = torch.Generator().manual_seed(9)
    theta, phi = torch.randn(2, *SHAPE, dtype=torch.float64, generator=generator).requires_grad_()
    joint, q = prior * theta.sigmoid(), phi.flatten().softmax(0).reshape(SHAPE)
    of_theta, of_phi = torch.autograd.grad(evidence_lower_bound(q, joint), (theta, phi), retain_graph=True)
    # The gradient of ln p(x, Z) is 1 - sigmoid(theta) for its own Z.
    torch.testing.assert_close(of_theta, (q * (1 - theta.sigmoid())).detach())
    log_ratio, frozen = joint.log() - q.log(), q.detach()
    (inside,) = torch.autograd.grad((frozen * log_ratio).sum(), phi, retain_graph=True)
    (score,) = torch.autograd.grad((frozen * log_ratio.detach() * q.log()).sum(), phi)
    torch.testing.assert_close(inside, torch.zeros_like(inside), atol=1e-12, rtol=0)
    torch.testing.assert_close(score, of_phi)
    assert of_phi.abs().max() > 1e-3


def test_climbing_the_bound_finds_posterior_and_likelihood():
    """Eq. 7: at the maximum over phi and theta, Q is the posterior and the model has the data's distribution.

    Five observations, two latents; theta is a table p(x|z) with p(z), phi a table q(z|x), and the bound is averaged
    over the data. Its largest value is minus their entropy, which no model's likelihood can exceed.
    """
    data = table(70, 5)
    generator = torch.Generator().manual_seed(8)
    shapes = ((2,), (5, 2), (5, 2))
    parameters = [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]
    optimizer = torch.optim.LBFGS(parameters, max_iter=500, tolerance_change=0, line_search_fn="strong_wolfe")

    def tables() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        of_prior, theta, phi = parameters
        return of_prior.softmax(0), theta.softmax(0), phi.softmax(1)

    def loss() -> torch.Tensor:
        prior, likelihood, q = tables()
        optimizer.zero_grad()
        negative = -sum(data[x] * bound_from_parts(q[x], prior, likelihood[x]) for x in range(5))
        negative.backward()
        return negative.detach()

    entropy = -float((data * data.log()).sum())
    assert float(loss()) > entropy + 0.05
    optimizer.step(loss)
    assert float(loss()) == pytest.approx(entropy, abs=1e-8)
    prior, likelihood, q = (table.detach() for table in tables())
    for x in range(5):
        posterior, evidence = bayes_posterior(prior, likelihood[x])
        torch.testing.assert_close(q[x], posterior, atol=1e-4, rtol=0)
        assert float(evidence) == pytest.approx(float(data[x]), abs=1e-4)
