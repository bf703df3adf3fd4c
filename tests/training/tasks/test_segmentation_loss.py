"""The weighted cross-entropy against its formula, pixel by pixel, and its gradient."""

from __future__ import annotations

import math

import torch

from training.tasks.segmentation_loss import weighted_cross_entropy


def batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    weights = 11 * torch.rand(2, 4, 5, generator=generator)
    return logits.to(dtype), labels, weights


def test_it_is_the_formula():
    logits, labels, weights = batch()
    expected = torch.zeros(2, dtype=torch.float64)
    for image, row, column in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(5)).tolist():
        exponentials = [math.exp(a) for a in logits[image, :, row, column].tolist()]
        probability = exponentials[int(labels[image, row, column])] / sum(exponentials)
        expected[image] -= float(weights[image, row, column]) * math.log(probability)
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, weights).double(), expected, rtol=1e-5, atol=0)


def test_by_hand():
    """Two classes that are told apart by nothing cost ln 2 a unit of weight; certainty costs nothing."""
    labels, weights = torch.tensor([[[0, 1]]]), torch.tensor([[[1.0, 10.0]]])
    torch.testing.assert_close(
        weighted_cross_entropy(torch.zeros(1, 2, 1, 2), labels, weights), torch.tensor([11 * math.log(2)])
    )
    certain = torch.tensor([[[[100.0, 0.0]], [[0.0, 100.0]]]])
    assert weighted_cross_entropy(certain, labels, weights).tolist() == [0.0]
    # With the minus sign, an error is a positive loss: without it a network would learn to be wrong.
    torch.testing.assert_close(weighted_cross_entropy(-certain, labels, weights), torch.tensor([1100.0]))


def test_the_gradient_is_the_weighted_difference_from_the_label():
    """d E / d a_k(x) = w(x) (p_k(x) - [k = l(x)])."""
    logits, labels, weights = batch()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(weighted_cross_entropy(logits, labels, weights).sum(), logits)
    one_hot = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(gradient, weights[:, None] * (logits.softmax(1) - one_hot))


def test_pixels_of_no_weight_have_no_say():
    logits, labels, weights = batch()
    weights[:, 1:] = 0
    changed = logits.clone()
    changed[:, :, 1:] += torch.randn(2, 3, 3, 5, generator=torch.Generator().manual_seed(1))
    found, again = (weighted_cross_entropy(one, labels, weights) for one in (logits, changed))
    assert torch.equal(found, again)


def test_half_precision_is_summed_in_float32():
    logits, labels, weights = batch(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = weighted_cross_entropy(logits, labels, weights)
    assert (loss.shape, loss.dtype) == ((2,), torch.float32)
    torch.testing.assert_close(loss, weighted_cross_entropy(logits.float(), labels, weights))
