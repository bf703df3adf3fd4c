"""The loss of a segmentation, as a pure function that returns one number a sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def weighted_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted negative log-likelihood of the classes of all pixels (U-Net note; Ronneberger et al. 2015, eq. 1).

    E = -sum_x w(x) ln p_{l(x)}(x),   p_k(x) = exp(a_k(x)) / sum_k' exp(a_k'(x))

    Note and paper print E without its minus sign. A sum over pixels, as in the paper and in `losses`: whoever compares
    pictures of several sizes divides it by the number of pixels.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_classes, height, width)`): a. Floating point.
        labels (`torch.LongTensor` of shape `(batch_size, height, width)`): l(x), in [0, num_classes).
        weights (`torch.Tensor` of shape `(batch_size, height, width)`): w(x), at least 0; see `weight_map`.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32: weighted nats an image.
    """
    nll = F.cross_entropy(logits.float(), labels, reduction="none")
    return (weights.float() * nll).flatten(1).sum(1)
