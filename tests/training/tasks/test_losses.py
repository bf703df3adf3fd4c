"""The losses against the distributions and the papers that they come from."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Normal

from training.tasks.losses import BERNOULLI_MARGIN, bernoulli_nll, contrastive_loss, gaussian_nll


def images(seed: int, num: int = 4) -> torch.Tensor:
    return torch.rand(num, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def unit_vectors(seed: int, num: int, dim: int = 6) -> torch.Tensor:
    return F.normalize(torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("std", [0.1, 1.0])
def test_gaussian_nll_is_the_density_without_its_constant(std):
    """-ln N(x; D, std^2 I) = |x - D|^2 / (2 std^2) + N ln(std sqrt(2 pi))."""
    x, mean = images(0), images(1)
    density = -Normal(mean, std).log_prob(x).flatten(1).sum(1)
    constant = x[0].numel() * math.log(std * math.sqrt(2 * math.pi))
    torch.testing.assert_close(gaussian_nll(x, mean, std) + constant, density)


def test_gaussian_nll_of_unit_variance_is_half_the_squared_distance():
    """Report eq. 8-9."""
    x, mean = images(0), images(1)
    torch.testing.assert_close(gaussian_nll(x, mean, 1.0), (x - mean).flatten(1).norm(dim=1).square() / 2)


def test_bernoulli_nll_of_black_and_white_is_the_likelihood():
    x = images(0).sign()
    mean = images(1) * 0.99
    expected = -Bernoulli((mean + 1) / 2).log_prob((x + 1) / 2).flatten(1).sum(1)
    torch.testing.assert_close(bernoulli_nll(x, mean), expected)


def test_bernoulli_nll_of_grey_is_binary_cross_entropy():
    x, mean = images(0), images(1) * 0.99
    expected = F.binary_cross_entropy((mean + 1) / 2, (x + 1) / 2, reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(bernoulli_nll(x, mean), expected)


TARGETS = torch.tensor([-1.0, -0.999, -0.3, 0.0, 0.5, 1.0])


def curve(means: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of one pixel and its slope; rows are means, columns targets."""
    mean, target = (grid.flatten() for grid in torch.meshgrid(means, TARGETS, indexing="ij"))
    mean = mean.clone().requires_grad_()
    loss = bernoulli_nll(target[:, None], mean[:, None])
    (slope,) = torch.autograd.grad(loss.sum(), mean)
    return loss.detach().view(-1, len(TARGETS)), slope.view(-1, len(TARGETS))


def test_bernoulli_nll_outside_the_interval_has_a_constant_slope_inwards():
    """1/m per probability is 1/(2m) per mean, and adds to no slope of the clamped cross-entropy."""
    slope_per_mean = 1 / (2 * BERNOULLI_MARGIN)
    loss, slope = curve(torch.tensor([-50.0, -1.5, -1.0, 1.0, 1.5, 50.0]))
    assert torch.isfinite(loss).all()
    torch.testing.assert_close(slope[:3], torch.full_like(slope[:3], -slope_per_mean))
    torch.testing.assert_close(slope[3:], torch.full_like(slope[3:], slope_per_mean))
    torch.testing.assert_close(loss[0] - loss[1], torch.full_like(loss[0], 48.5 * slope_per_mean))


def test_bernoulli_nll_is_convex_and_continuous():
    means = torch.linspace(-1.2, 1.2, 4801, dtype=torch.float64).float()
    loss, slope = curve(means)
    assert (slope.diff(dim=0) >= -1e-3).all()
    step = 2.4 / 4800
    assert loss.diff(dim=0).abs().max() <= 1.01 * step / (2 * BERNOULLI_MARGIN)


def test_bernoulli_nll_is_least_at_the_target():
    means = torch.linspace(-1, 1, 4001)
    best = means[curve(means)[0].argmin(0)]
    margin = 1 - 2 * BERNOULLI_MARGIN
    torch.testing.assert_close(best, TARGETS.clamp(-margin, margin), rtol=0, atol=1e-3)


def test_losses_are_float32_numbers_a_sample():
    x = images(0).bfloat16()
    for loss in (gaussian_nll(x, x * 0.5, 0.1), bernoulli_nll(x, x * 0.5)):
        assert (loss.shape, loss.dtype) == ((4,), torch.float32)


def test_contrastive_loss_of_different_captions_is_that_of_clip():
    pictures, texts, scale = unit_vectors(0, 5), unit_vectors(1, 5), torch.tensor(14.0)
    is_positive = torch.eye(5, dtype=torch.bool)
    ours = (
        contrastive_loss(pictures, texts, is_positive, scale) + contrastive_loss(texts, pictures, is_positive, scale)
    ).mean() / 2
    # Radford et al. 2021, figure 3: cross-entropy over the rows and the columns of one matrix of logits.
    logits, labels = scale * pictures @ texts.T, torch.arange(5)
    torch.testing.assert_close(ours, (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2)


def test_positives_share_the_target_evenly():
    """loss_i = -1/|P_i| sum over positives of ln softmax."""
    captions = torch.tensor([0, 1, 0, 0, 2])
    is_positive = captions[:, None] == captions[None]
    pictures, texts, scale = unit_vectors(0, 5), unit_vectors(1, 5), torch.tensor(3.0)
    log_probabilities = (3.0 * pictures @ texts.T).log_softmax(1)
    expected = [-log_probabilities[row][is_positive[row]].mean() for row in range(5)]
    torch.testing.assert_close(contrastive_loss(pictures, texts, is_positive, scale), torch.stack(expected))


def test_equal_captions_are_not_negatives():
    """A text between its two pictures, far from the third, is at rest: plain CLIP would push one of the two away."""
    text, other = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    pictures = F.normalize(torch.tensor([[1.0, 0.5, 0.0], [1.0, -0.5, 0.0], [0.0, 0.0, 1.0]]), dim=-1)
    texts = torch.stack([text, text, other]).requires_grad_()
    scale = torch.tensor(100.0)
    captions = torch.tensor([0, 0, 1])

    def pull(is_positive: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(contrastive_loss(texts, pictures, is_positive, scale).sum(), texts)[0]

    assert pull(captions[:, None] == captions[None]).abs().max() < 1e-4
    assert pull(torch.eye(3, dtype=torch.bool)).abs().max() > 10


def test_which_of_two_equal_captions_a_picture_has_makes_no_difference():
    captions = torch.tensor([0, 1, 0, 2])
    is_positive = captions[:, None] == captions[None]
    pictures, texts, scale = unit_vectors(0, 4), unit_vectors(1, 3)[captions], torch.tensor(5.0)
    swapped = pictures[[2, 1, 0, 3]]
    for one, two in ((pictures, swapped), (texts, texts)):
        torch.testing.assert_close(
            contrastive_loss(texts, one, is_positive, scale), contrastive_loss(texts, two, is_positive, scale)
        )
