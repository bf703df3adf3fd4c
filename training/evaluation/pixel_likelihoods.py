"""Probabilities of 8-bit pixels given a decoded image: normalised over the 256 levels, so they make bits.

The binned Gaussian is `sd_pipeline.schedulers.variational_bound.discretised_gaussian_nll`. Binary cross-entropy, which
the report trains on (section 2.5), is none of these: its masses over the levels do not sum to one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from sd_pipeline.schedulers.variational_bound import NUM_LEVELS, discretised_gaussian_nll

BERNOULLI_MARGIN = 1 / 512
"""A probability of a Bernoulli likelihood is kept this far from 0 and 1: half of one of the 256 grey levels."""


@dataclass(frozen=True)
class PixelLikelihood:
    """p(x|z) of an autoencoder for 8-bit pixels: masses over the 256 levels that sum to one.

    Args:
        kind (`str`): `"gaussian"`, binned to the levels, or `"bernoulli"`, the continuous one, binned likewise.
        std (`float`, *optional*): Standard deviation of the Gaussian, in units of pixel values in [-1, 1].
    """

    kind: Literal["gaussian", "bernoulli"]
    std: float | None = None

    def nll(self, pixel_values: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """Give -ln p(x|z) of every image.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, ...)`): Levels 2 k / 255 - 1. Floating point.
            decoded (`torch.Tensor`, same shape): The decoder's output.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`, float64, at least 0: nats an image.
        """
        pixel_values, decoded = pixel_values.double(), decoded.double()
        if self.std is None:
            nll = binned_continuous_bernoulli_nll(pixel_values, bernoulli_logits(decoded))
        else:
            log_variance = torch.full_like(decoded, 2 * math.log(self.std))
            nll = discretised_gaussian_nll(pixel_values, decoded, log_variance)
        return nll.flatten(1).sum(1)


def bernoulli_logits(decoded: torch.Tensor) -> torch.Tensor:
    """Give the logits of the probability of white that a decoder means, (decoded + 1) / 2.

    Args:
        decoded (`torch.Tensor`, any shape): The decoder's output; the probability is kept in [1/512, 511/512].

    Returns:
        `torch.Tensor` of the same shape.
    """
    return torch.logit(((decoded + 1) / 2).clamp(BERNOULLI_MARGIN, 1 - BERNOULLI_MARGIN))


def binned_continuous_bernoulli_nll(pixel_values: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Give -ln of the mass that a continuous Bernoulli distribution puts on a pixel's level.

    The density on [0, 1] is C(p) p^x (1 - p)^(1 - x), which C makes a distribution (Loaiza-Ganem and Cunningham 2019);
    with the logit l of p it is l exp(l x) / (exp(l) - 1). A level has what lies between the middles to its neighbours,
    the first and the last half as wide. Over a bin of width w and middle m that is

    w exp(l (m - 1/2)) s(l w / 2) / s(l / 2),   s(u) = sinh(u) / u

    Args:
        pixel_values (`torch.Tensor`): Any shape, levels 2 k / 255 - 1 in [-1, 1]. Floating point.
        logits (`torch.Tensor`, broadcastable): l, in (-inf, inf).

    Returns:
        `torch.Tensor` of the broadcast shape, in [0, inf): nats.
    """
    half = 0.5 / (NUM_LEVELS - 1)
    level = (pixel_values + 1) / 2
    lower, upper = (level - half).clamp(min=0), (level + half).clamp(max=1)
    width, middle = upper - lower, (upper + lower) / 2
    log_mass = width.log() + logits * (middle - 0.5) + log_sinhc(logits * width / 2) - log_sinhc(logits / 2)
    return -log_mass


def bernoulli_mass(logits: torch.Tensor) -> torch.Tensor:
    """Give the sum over all levels of exp(-binary cross-entropy), which a distribution would have at 1.

    Args:
        logits (`torch.Tensor`, any shape): Of the probability of white.

    Returns:
        `torch.Tensor` of the same shape: above 1, up to 128 at probability 1/2.
    """
    levels = torch.linspace(0, 1, NUM_LEVELS, dtype=logits.dtype, device=logits.device)
    shape = (*logits.shape, NUM_LEVELS)
    entropy = F.binary_cross_entropy_with_logits(
        logits.unsqueeze(-1).expand(shape), levels.expand(shape), reduction="none"
    )
    return torch.exp(-entropy).sum(-1)


def log_sinhc(u: torch.Tensor) -> torch.Tensor:
    """Give ln(sinh(u) / u), an even function: u^2 / 6 near 0 and |u| - ln(2 |u|) far from it.

    Args:
        u (`torch.Tensor`, any shape): Floating point.

    Returns:
        `torch.Tensor` of the same shape, in [0, inf).
    """
    size = u.abs()
    is_small = size < 0.05
    far = torch.where(is_small, torch.ones_like(size), size)
    square = u.square()
    series = square / 6 - square.square() / 180 + square**3 / 2835
    return torch.where(is_small, series, far + torch.log1p(-torch.exp(-2 * far)) - torch.log(2 * far))
