"""The terms of the variational bound on -ln p(x_0), as pure functions (report eq. 14-23; Ho et al. 2020, section 2-3).

L = L_T + sum_{t>1} L_{t-1} + L_0                                                           (report eq. 16)
L_T = KL(q(x_T|x_0) || N(0, I))
L_{t-1} = KL(q(x_{t-1}|x_t, x_0) || p_theta(x_{t-1}|x_t)),   L_0 = -ln p_theta(x_0|x_1)

Each function returns nats, one number for each element of its arguments, which broadcast; whoever wants those of an
image sums them. Gaussians are given by mean and log-variance. Results have the precision of the arguments: in float32
the terms of a thousand steps lose their sixth digit, so evaluation hands over float64.
"""

from __future__ import annotations

import math

import torch

from sd_pipeline.schedulers.posterior import posterior_mean, posterior_variance, transition_beta

NUM_LEVELS = 256
"""Grey levels of a pixel of 8 bits. Level k is the pixel value 2 k / 255 - 1."""


def gaussian_kl(
    mean: torch.Tensor, log_variance: torch.Tensor, other_mean: torch.Tensor, other_log_variance: torch.Tensor
) -> torch.Tensor:
    """Give KL(N(mean, variance) || N(other_mean, other_variance)) of each element.

    1/2 (ln(s'^2 / s^2) + (s^2 + (m - m')^2) / s'^2 - 1)

    Args:
        mean (`torch.Tensor`): m, floating point.
        log_variance (`torch.Tensor`): ln s^2.
        other_mean (`torch.Tensor`): m'.
        other_log_variance (`torch.Tensor`): ln s'^2.

    Returns:
        `torch.Tensor` of the broadcast shape, in [0, inf): nats.
    """
    log_ratio = log_variance - other_log_variance
    return 0.5 * (log_ratio.exp() - 1 - log_ratio + (mean - other_mean).square() * torch.exp(-other_log_variance))


def prior_term(x_0: torch.Tensor, alpha_bar_last: torch.Tensor) -> torch.Tensor:
    """Give L_T = KL(N(sqrt(alpha_bar_T) x_0, 1 - alpha_bar_T) || N(0, 1)) (report eq. 16, section 3.2.1).

    It has no parameter to learn, and is 0 at zero terminal SNR.

    Args:
        x_0 (`torch.Tensor`): Clean samples, any shape.
        alpha_bar_last (`torch.Tensor`, a scalar): alpha_bar of the last timestep, in [0, 1).

    Returns:
        `torch.Tensor` of the shape of `x_0`, in [0, inf): nats.
    """
    zero = torch.zeros_like(alpha_bar_last)
    return gaussian_kl(alpha_bar_last.sqrt() * x_0, torch.log1p(-alpha_bar_last), zero, zero)


def step_term(
    x_0: torch.Tensor,
    x_t: torch.Tensor,
    mean: torch.Tensor,
    log_variance: torch.Tensor,
    alpha_bar: torch.Tensor,
    alpha_bar_prev: torch.Tensor,
) -> torch.Tensor:
    """Give L_{t-1}, t > 1, in closed form given x_t: the Rao-Blackwellised term (report eq. 16-18, corrected).

    Args:
        x_0 (`torch.Tensor`): Clean samples, any shape.
        x_t (`torch.Tensor`, same shape): Noisy ones.
        mean (`torch.Tensor`, same shape): mu_theta(x_t, t).
        log_variance (`torch.Tensor`, broadcastable): ln sigma_t^2 of the reverse step.
        alpha_bar (`torch.Tensor`, broadcastable): alpha_bar_t, in [0, 1).
        alpha_bar_prev (`torch.Tensor`, broadcastable): alpha_bar_{t-1}, in (alpha_bar_t, 1).

    Returns:
        `torch.Tensor` of the shape of the samples, in [0, inf): nats.
    """
    true_mean = posterior_mean(x_0, x_t, alpha_bar, alpha_bar_prev)
    return gaussian_kl(true_mean, posterior_variance(alpha_bar, alpha_bar_prev).log(), mean, log_variance)


def mean_error_term(true_mean: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Give L_{t-1} - C = |mu_tilde - mu_theta|^2 / (2 sigma_t^2), what of it depends on the mean (report eq. 19).

    Args:
        true_mean (`torch.Tensor`): mu_tilde(x_t, x_0), any shape.
        mean (`torch.Tensor`, same shape): mu_theta(x_t, t).
        variance (`torch.Tensor`, broadcastable): sigma_t^2, positive.

    Returns:
        `torch.Tensor` of the shape of the means, in [0, inf): nats.
    """
    return (true_mean - mean).square() / (2 * variance)


def variance_term(variance: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor) -> torch.Tensor:
    """Give C of report eq. 19: KL(N(0, beta_tilde) || N(0, sigma_t^2)) of each element, 0 for `fixed_small`.

    Args:
        variance (`torch.Tensor`): sigma_t^2, positive.
        alpha_bar (`torch.Tensor`, broadcastable): alpha_bar_t, in [0, 1).
        alpha_bar_prev (`torch.Tensor`, broadcastable): alpha_bar_{t-1}, in (alpha_bar_t, 1).

    Returns:
        `torch.Tensor` of the broadcast shape, in [0, inf): nats.
    """
    ratio = posterior_variance(alpha_bar, alpha_bar_prev) / variance
    return 0.5 * (ratio - 1 - ratio.log())


def epsilon_weight(variance: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor) -> torch.Tensor:
    """Give the factor of |epsilon - epsilon_theta|^2 in L_{t-1} - C (report eq. 23; Ho et al. 2020, Eq. 12).

    beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t))

    Args:
        variance (`torch.Tensor`): sigma_t^2, positive.
        alpha_bar (`torch.Tensor`, broadcastable): alpha_bar_t, in (0, 1): at 0 no epsilon gives a mean.
        alpha_bar_prev (`torch.Tensor`, broadcastable): alpha_bar_{t-1}, in (alpha_bar_t, 1].

    Returns:
        `torch.Tensor` of the broadcast shape, positive.
    """
    beta = transition_beta(alpha_bar, alpha_bar_prev)
    return beta.square() / (2 * variance * (1 - beta) * (1 - alpha_bar))


def gaussian_nll(x: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Give -ln N(x; mean, variance), L_0 of latents: a density, so it may be negative.

    Args:
        x (`torch.Tensor`): Any shape.
        mean (`torch.Tensor`, broadcastable): Of the Gaussian.
        log_variance (`torch.Tensor`, broadcastable): ln of its variance.

    Returns:
        `torch.Tensor` of the broadcast shape, in (-inf, inf): nats.
    """
    return 0.5 * (math.log(2 * math.pi) + log_variance + (x - mean).square() * torch.exp(-log_variance))


def discretised_gaussian_nll(
    pixel_values: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor
) -> torch.Tensor:
    """Give -ln of the mass that a Gaussian puts on a pixel's level, L_0 of 8-bit pixels (Ho et al. 2020, Eq. 13).

    A level has the mass between the middles to its neighbours, 1/255 on either side; the first and the last have the
    tails too, so that the 256 masses sum to one. Computed from logarithms of the normal distribution's tail on the
    side where it is small: exact wherever the mass is, with gradients where others clamp.

    Args:
        pixel_values (`torch.Tensor`): x, any shape, levels 2 k / 255 - 1 in [-1, 1].
        mean (`torch.Tensor`, broadcastable): Of the Gaussian.
        log_variance (`torch.Tensor`, broadcastable): ln of its variance.

    Returns:
        `torch.Tensor` of the broadcast shape, in [0, inf): nats.
    """
    centred, precision = pixel_values - mean, torch.exp(-0.5 * log_variance)
    upper, lower = (centred + 1 / 255) * precision, (centred - 1 / 255) * precision
    # Phi(b) - Phi(a) = Phi(-a) - Phi(-b): on the side of the smaller tail nothing cancels.
    is_right = centred > 0
    larger = torch.special.log_ndtr(torch.where(is_right, -lower, upper))
    smaller = torch.special.log_ndtr(torch.where(is_right, -upper, lower))
    within = larger + torch.log(-torch.expm1(smaller - larger))
    first, last = pixel_values < -1 + 1 / 255, pixel_values > 1 - 1 / 255
    outer = torch.where(first, torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower))
    return -torch.where(first | last, outer, within)


def bits_per_dimension(nats: torch.Tensor, num_dimensions: int) -> torch.Tensor:
    """Give nats of a whole image as bits of each of its values: nats / (ln 2 num_dimensions).

    Args:
        nats (`torch.Tensor`): Any shape.
        num_dimensions (`int`): Values of an image: channels x height x width.

    Returns:
        `torch.Tensor` of the same shape.
    """
    return nats / (math.log(2) * num_dimensions)
