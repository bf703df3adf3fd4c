"""The forward process posterior q(x_s | x_t, x_0), s < t, and the variances that the reverse process may take from it.

Everything is a function of alpha_bar_t and alpha_bar_s alone, so that steps over several timesteps (s < t - 1) are as
right as single ones: the product of the alphas between s and t plays the part of alpha_t. The data themselves, x_0,
have alpha_bar = 1. Arguments broadcast; results have the precision of the arguments.
"""

from __future__ import annotations

import torch

# What diffusers puts in the place of a variance of 0, whose logarithm is needed.
MIN_VARIANCE = 1e-20


def transition_beta(alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor) -> torch.Tensor:
    """Give the variance of q(x_t | x_s): beta = 1 - alpha_bar_t / alpha_bar_s, which is beta_t for s = t - 1.

    Args:
        alpha_bar (`torch.Tensor`): alpha_bar_t, floating point, in [0, 1).
        alpha_bar_prev (`torch.Tensor`): alpha_bar_s, floating point, in (alpha_bar_t, 1].

    Returns:
        `torch.Tensor` of the broadcast shape, in (0, 1].
    """
    return 1 - alpha_bar / alpha_bar_prev


def posterior_coefficients(alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the weights of x_0 and x_t in the posterior mean (Ho et al. 2020, Eq. 7; report eq. 18, corrected).

    c_0 = sqrt(alpha_bar_s) beta / (1 - alpha_bar_t)
    c_t = sqrt(alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t),  alpha = alpha_bar_t / alpha_bar_s,  beta = 1 - alpha

    The report prints sqrt(alpha_bar_t - 1) in c_0, where the bar belongs to t - 1, and sqrt(alpha_bar_t) in c_t.

    Args:
        alpha_bar (`torch.Tensor`): alpha_bar_t, floating point, in [0, 1).
        alpha_bar_prev (`torch.Tensor`): alpha_bar_s, floating point, in (alpha_bar_t, 1].

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: c_0 in (0, 1] and c_t in [0, 1), of the broadcast shape.
    """
    alpha = alpha_bar / alpha_bar_prev
    # Not (alpha_bar_prev - alpha_bar) / alpha_bar_prev, which float32 rounds less: models and samplers of the field
    # use the difference from 1, and at small beta the two are 1e-4 apart.
    beta = 1 - alpha
    c_0 = alpha_bar_prev.sqrt() * beta / (1 - alpha_bar)
    c_t = alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar)
    return c_0, c_t


def posterior_mean(
    x_0: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor
) -> torch.Tensor:
    """Give the mean of q(x_s | x_t, x_0) (Ho et al. 2020, Eq. 7; report eq. 17-18, corrected).

    mu_tilde = c_0 x_0 + c_t x_t, with the coefficients of `posterior_coefficients`; x_0 itself where s is the data.

    Args:
        x_0 (`torch.Tensor`): Clean samples, any shape, floating point.
        x_t (`torch.Tensor`, same shape): Noisy samples.
        alpha_bar (`torch.Tensor`): alpha_bar_t, broadcastable to the samples, in [0, 1).
        alpha_bar_prev (`torch.Tensor`): alpha_bar_s, broadcastable to the samples, in (alpha_bar_t, 1].

    Returns:
        `torch.Tensor` of the shape of the samples.
    """
    c_0, c_t = posterior_coefficients(alpha_bar, alpha_bar_prev)
    return c_0 * x_0 + c_t * x_t


def posterior_variance(alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor) -> torch.Tensor:
    """Give the variance of q(x_s | x_t, x_0) (Ho et al. 2020, Eq. 7; report eq. 18).

    beta_tilde = (1 - alpha_bar_s) / (1 - alpha_bar_t) beta,  beta = 1 - alpha_bar_t / alpha_bar_s

    Args:
        alpha_bar (`torch.Tensor`): alpha_bar_t, floating point, in [0, 1).
        alpha_bar_prev (`torch.Tensor`): alpha_bar_s, floating point, in (alpha_bar_t, 1].

    Returns:
        `torch.Tensor` of the broadcast shape, in [0, 1); 0 where s is the data.
    """
    return (1 - alpha_bar_prev) / (1 - alpha_bar) * transition_beta(alpha_bar, alpha_bar_prev)


def reverse_std(
    variance_type: str | None,
    alpha_bar: torch.Tensor,
    alpha_bar_prev: torch.Tensor,
    predicted_variance: torch.Tensor | None = None,
    least: torch.Tensor | None = None,
) -> torch.Tensor:
    """Give sigma_t of p_theta(x_s | x_t), the spread of the reverse step.

    fixed_small, fixed_small_log   sigma^2 = beta_tilde       (Ho et al. 2020, section 3.2; the lower bound)
    fixed_large, fixed_large_log   sigma^2 = beta             (the same; the upper bound, and the report's choice)
    learned                        sigma^2 = v                (the model's own number; below 0 counts as 0)
    learned_range                  ln sigma^2 = f ln beta + (1 - f) ln beta_tilde,  f = (v + 1) / 2
                                                              (Nichol and Dhariwal 2021, Eq. 15)

    In the step to the data beta_tilde is 0, and so is what learned_range makes of it: no noise is added. (diffusers
    takes 1e-20 for beta_tilde there, of which a v above 1 makes an enormous variance; with it a schedule has to end at
    timestep 0, where no noise is added anyway.)

    The `_log` types name how other programs store the number; the spread is the same. (diffusers 0.42 takes the
    square root of a logarithm for fixed_large_log, which is NaN.)

    Args:
        variance_type (`str` or `None`): One of the above; `None` is fixed_small.
        alpha_bar (`torch.Tensor`): alpha_bar_t, floating point, in [0, 1).
        alpha_bar_prev (`torch.Tensor`): alpha_bar_s, floating point, in (alpha_bar_t, 1].
        predicted_variance (`torch.Tensor`, *optional*):
            The model's v, of the shape of the samples; about [-1, 1] for learned_range. The learned types need it.
        least (`torch.Tensor`, *optional*):
            What beta_tilde counts as where s is the data, and it is 0: likelihoods need a variance there.

    Returns:
        `torch.Tensor`: sigma_t >= 0, of the shape of alpha_bar, or of the prediction for the learned types.
    """
    beta = transition_beta(alpha_bar, alpha_bar_prev)
    beta_tilde = posterior_variance(alpha_bar, alpha_bar_prev)
    if least is not None:
        beta_tilde = torch.where(alpha_bar_prev < 1, beta_tilde, least)
    beta_tilde = beta_tilde.clamp(min=MIN_VARIANCE)
    if variance_type in ("fixed_large", "fixed_large_log"):
        return beta.sqrt()
    if predicted_variance is None:
        return beta_tilde.sqrt()
    if variance_type == "learned":
        return predicted_variance.clamp(min=0).sqrt()
    fraction = (predicted_variance + 1) / 2
    std = torch.exp(0.5 * (fraction * beta.log() + (1 - fraction) * beta_tilde.log()))
    is_point = (alpha_bar_prev == 1) if least is None else torch.zeros_like(alpha_bar_prev, dtype=torch.bool)
    return torch.where(is_point, torch.zeros_like(std), std)
