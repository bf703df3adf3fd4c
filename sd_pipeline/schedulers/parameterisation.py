"""What a network may predict, and how each prediction is turned into the others, as pure functions.

x_0 (`sample`) is the hub: every parameterisation has one function to it and one from it. With x_t =
sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) epsilon (report eq. 15), any two of x_t, x_0, epsilon, v determine the rest.
The report's first choice, the posterior mean mu_tilde of eq. 18, is the weighted sum of x_0 and x_t of `posterior`.

`alpha_bar` is alpha_bar_t in [0, 1), `alpha_bar_prev` is alpha_bar_{t-1} in (alpha_bar_t, 1]; both broadcast to the
samples, which may have any shape. Results have the precision of the arguments.
"""

from __future__ import annotations

import torch

from sd_pipeline.schedulers.posterior import posterior_coefficients, posterior_mean, transition_beta


def x_t_from(x_0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """Diffuse x_0: x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) epsilon (Ho et al. 2020, Eq. 4; report eq. 15)."""
    return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise


def velocity_from(x_0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """Give v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x_0 (Salimans and Ho 2022, section 4)."""
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0


def x_0_from_epsilon(epsilon: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """Give x_0 = (x_t - sqrt(1 - alpha_bar) epsilon) / sqrt(alpha_bar) (Ho et al. 2020, Eq. 15).

    At alpha_bar = 0 (zero terminal SNR) x_t is epsilon, whatever x_0 was, and the quotient is 0/0. There the result is
    0, the mean of standardised latents and the middle of [-1, 1].
    """
    has_signal = alpha_bar > 0
    root = torch.where(has_signal, alpha_bar, torch.ones_like(alpha_bar)).sqrt()
    return (x_t - (1 - alpha_bar).sqrt() * epsilon) / root * has_signal


def epsilon_from_x_0(x_0: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """Give epsilon = (x_t - sqrt(alpha_bar) x_0) / sqrt(1 - alpha_bar) (Ho et al. 2020, Eq. 4 solved for epsilon)."""
    return (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()


def x_0_from_velocity(velocity: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """Give x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v (Salimans and Ho 2022, section 4)."""
    return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * velocity


def velocity_from_x_0(x_0: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """Give v = (sqrt(alpha_bar) x_t - x_0) / sqrt(1 - alpha_bar) (the line above solved for v)."""
    return (alpha_bar.sqrt() * x_t - x_0) / (1 - alpha_bar).sqrt()


def epsilon_from_velocity(velocity: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """Give epsilon = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) x_t (Salimans and Ho 2022, section 4)."""
    return alpha_bar.sqrt() * velocity + (1 - alpha_bar).sqrt() * x_t


def mean_from_x_0(
    x_0: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor
) -> torch.Tensor:
    """Give mu_tilde(x_t, x_0), what the first parameterisation predicts (report eq. 18, corrected, and eq. 19)."""
    return posterior_mean(x_0, x_t, alpha_bar, alpha_bar_prev)


def x_0_from_mean(
    mean: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor
) -> torch.Tensor:
    """Give x_0 = (mu_tilde - c_t x_t) / c_0 (report eq. 18, corrected, solved for x_0).

    c_0 is positive even at alpha_bar_t = 0, but small (1.3e-4 at the last of 1000 linear steps): float32 leaves x_0
    an error of about 1e-7 / c_0, which the posterior mean of the same step multiplies by c_0 again.
    """
    c_0, c_t = posterior_coefficients(alpha_bar, alpha_bar_prev)
    return (mean - c_t * x_t) / c_0


def mean_from_epsilon(
    epsilon: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor
) -> torch.Tensor:
    """Give mu = (x_t - beta / sqrt(1 - alpha_bar) epsilon) / sqrt(alpha) (Ho et al. 2020, Eq. 11; report eq. 20-21).

    Not defined at alpha_bar_t = 0, where alpha is 0.
    """
    beta = transition_beta(alpha_bar, alpha_bar_prev)
    return (x_t - beta / (1 - alpha_bar).sqrt() * epsilon) / (1 - beta).sqrt()
