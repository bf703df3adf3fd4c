"""The losses of the tasks, as pure functions that return one number a sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from training.evaluation.pixel_likelihoods import BERNOULLI_MARGIN


def gaussian_nll(pixel_values: torch.Tensor, mean: torch.Tensor, std: float | torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of pixels under N(mean, std^2 I), without its constant (report eq. 8-9).

    -ln p(x|z) = |x - D(z)|^2 / (2 std^2) + const.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, ...)`): x, in [-1, 1].
        mean (`torch.Tensor`, same shape): D(z).
        std (`float` or `torch.Tensor` of one element): Standard deviation of the likelihood.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32: nats an image.
    """
    return (pixel_values.float() - mean.float()).square().flatten(1).sum(1) / (2 * std**2)


def laplace_nll(pixel_values: torch.Tensor, mean: torch.Tensor, std: float) -> torch.Tensor:
    """Negative log-likelihood of pixels under independent Laplacians, without its constant.

    -ln p(x|z) = |x - D(z)|_1 / b + const, b = std / sqrt(2), the scale of the Laplacian with that standard deviation.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, ...)`): x, in [-1, 1].
        mean (`torch.Tensor`, same shape): D(z).
        std (`float`): Standard deviation of the likelihood.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32: nats an image.
    """
    return (pixel_values.float() - mean.float()).abs().flatten(1).sum(1) * (2**0.5 / std)


def bernoulli_nll(pixel_values: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of grey values, the report's choice (section 2.5).

    -sum x ln p + (1 - x) ln(1 - p), x = (pixel_values + 1) / 2, p = (mean + 1) / 2. The decoder is not squashed, so p
    may leave [m, 1 - m], m half a grey level; there the loss goes on with the slope 1 / m, which keeps it convex and
    drives p back. Grey values are no coin flips: this is a training loss, not a log-likelihood of pixels.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, ...)`): Targets, in [-1, 1].
        mean (`torch.Tensor`, same shape): The decoder's output D(z).

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32: nats an image.
    """
    probability = (mean.float() + 1) / 2
    inside = probability.clamp(BERNOULLI_MARGIN, 1 - BERNOULLI_MARGIN)
    targets = ((pixel_values.float() + 1) / 2).clamp(0, 1)
    entropy = F.binary_cross_entropy(inside, targets, reduction="none")
    return (entropy + (probability - inside).abs() / BERNOULLI_MARGIN).flatten(1).sum(1)


def contrastive_loss(
    embeddings: torch.Tensor,
    other_embeddings: torch.Tensor,
    is_positive: torch.Tensor,
    logit_scale: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy of each row against all columns, its positives sharing the target evenly.

    loss_i = -1/|P_i| sum_{j in P_i} ln softmax_j(scale e_i . o_j)     (Radford et al. 2021, where |P_i| = 1)

    Args:
        embeddings (`torch.Tensor` of shape `(batch_size, dim)`): Of unit length.
        other_embeddings (`torch.Tensor` of shape `(num_columns, dim)`): Of unit length.
        is_positive (`torch.BoolTensor` of shape `(batch_size, num_columns)`): Which columns belong to a row.
        logit_scale (`torch.Tensor`, a scalar): The inverse temperature.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32.
    """
    logits = logit_scale.float() * embeddings.float() @ other_embeddings.float().T
    targets = is_positive.float() / is_positive.float().sum(1, keepdim=True)
    return F.cross_entropy(logits, targets, reduction="none")
