"""Noise schedules: how the variances beta_1 ... beta_T of the forward process are chosen, as pure functions.

Every schedule has one signature, `(num_train_timesteps, beta_start, beta_end) -> betas`, and `BETA_SCHEDULES` names
them with the words of diffusers. They return float32, because the schedulers of diffusers hold float32 and a model is
trained for the rounded values. Index t of the result is beta_{t+1} of the papers, which count from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

# Nichol and Dhariwal 2021, section 3.2: a larger beta near t = T makes the last steps singular.
MAX_BETA = 0.999


def linear(num_train_timesteps: int, beta_start: float, beta_end: float) -> torch.Tensor:
    """Space the variances evenly; 1e-4 to 0.02 over 1000 steps is the report's choice (section 3.3).

    Args:
        num_train_timesteps (`int`): Number of steps T, at least 1.
        beta_start (`float`): First variance, in (0, 1).
        beta_end (`float`): Last variance, in (0, 1).

    Returns:
        `torch.Tensor` of shape `(num_train_timesteps,)`, float32, in (0, 1).
    """
    return torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float32)


def scaled_linear(num_train_timesteps: int, beta_start: float, beta_end: float) -> torch.Tensor:
    """Space the square roots of the variances evenly, as Stable Diffusion does (Rombach et al. 2022, their code).

    Args:
        num_train_timesteps (`int`): Number of steps T, at least 1.
        beta_start (`float`): First variance, in (0, 1).
        beta_end (`float`): Last variance, in (0, 1).

    Returns:
        `torch.Tensor` of shape `(num_train_timesteps,)`, float32, in (0, 1).
    """
    return linear(num_train_timesteps, math.sqrt(beta_start), math.sqrt(beta_end)).square()


def sigmoid(num_train_timesteps: int, beta_start: float, beta_end: float) -> torch.Tensor:
    """Move from the first to the last variance along a logistic curve over [-6, 6] (GeoDiff, Xu et al. 2022).

    Args:
        num_train_timesteps (`int`): Number of steps T, at least 1.
        beta_start (`float`): Lower limit of the variances, in (0, 1).
        beta_end (`float`): Upper limit of the variances, in (0, 1).

    Returns:
        `torch.Tensor` of shape `(num_train_timesteps,)`, float32, in (0, 1).
    """
    return linear(num_train_timesteps, -6.0, 6.0).sigmoid() * (beta_end - beta_start) + beta_start


def squaredcos_cap_v2(num_train_timesteps: int, beta_start: float = 0.0, beta_end: float = 0.0) -> torch.Tensor:
    """Let alpha_bar fall like a squared cosine (Nichol and Dhariwal 2021, Eq. 17).

    alpha_bar(u) = cos((u + 0.008) / 1.008 * pi / 2)^2,  u = t / T

    Args:
        num_train_timesteps (`int`): Number of steps T, at least 1.
        beta_start (`float`): Not used; every schedule has the same signature.
        beta_end (`float`): Not used.

    Returns:
        `torch.Tensor` of shape `(num_train_timesteps,)`, float32, in (0, 0.999].
    """
    return _betas_of(lambda u: torch.cos((u + 0.008) / 1.008 * math.pi / 2).square(), num_train_timesteps)


def laplace(num_train_timesteps: int, beta_start: float = 0.0, beta_end: float = 0.0) -> torch.Tensor:
    """Draw the log-SNR from a Laplace distribution of scale 1/2 (Hang et al. 2024, Table 1).

    log_snr(u) = -1/2 sign(1/2 - u) ln(1 - 2 |1/2 - u|),  u = t / T

    diffusers uses sqrt(snr / (1 + snr)), the paper's alpha, where the product of the alphas, snr / (1 + snr), is
    meant. Its value is kept, for models are trained with it: alpha_bar ends at 0.03, far from pure noise, unless
    `rescale_betas_zero_snr` is set.

    Args:
        num_train_timesteps (`int`): Number of steps T, at least 1.
        beta_start (`float`): Not used; every schedule has the same signature.
        beta_end (`float`): Not used.

    Returns:
        `torch.Tensor` of shape `(num_train_timesteps,)`, float32, in (0, 0.999].
    """

    def alpha_bar(u: torch.Tensor) -> torch.Tensor:
        offset = 0.5 - u
        # 1e-6 keeps the logarithm finite at both ends.
        log_snr = torch.where(offset < 0, 0.5, -0.5) * (1 - 2 * offset.abs() + 1e-6).log()
        return log_snr.sigmoid().sqrt()

    return _betas_of(alpha_bar, num_train_timesteps)


def _betas_of(alpha_bar: Callable[[torch.Tensor], torch.Tensor], num_train_timesteps: int) -> torch.Tensor:
    """Cut a continuous alpha_bar(u), u in [0, 1], into variances.

    beta_t = 1 - alpha_bar(t / T) / alpha_bar((t - 1) / T)        (Nichol and Dhariwal 2021, section 3.2)

    The ratios are taken in float64: near u = 0 they are so close to 1 that float32 would lose most of beta.
    """
    values = alpha_bar(torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps)
    return (1 - values[1:] / values[:-1]).clamp(max=MAX_BETA).float()


BETA_SCHEDULES: dict[str, Callable[[int, float, float], torch.Tensor]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "squaredcos_cap_v2": squaredcos_cap_v2,
    "sigmoid": sigmoid,
    "laplace": laplace,
}


def rescale_zero_terminal_snr(betas: torch.Tensor) -> torch.Tensor:
    """Shift and scale sqrt(alpha_bar) so that it ends at exactly 0 and starts where it did (Lin et al. 2024, Alg. 1).

    Args:
        betas (`torch.Tensor` of shape `(num_train_timesteps,)`):
            Variances in (0, 1), float32; the last may be 1.

    Returns:
        `torch.Tensor` of the same shape and dtype, in (0, 1]; the last is exactly 1.

    Raises:
        ValueError: If there is only one step, which cannot both keep its alpha_bar and lose it.
    """
    if len(betas) < 2:
        raise ValueError("rescale_betas_zero_snr=True needs num_train_timesteps of at least 2, got 1.")
    root = torch.cumprod(1 - betas, dim=0).sqrt()
    first, last = root[0], root[-1]
    alphas_cumprod = ((root - last) * (first / (first - last))).square()
    alphas = torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    return 1 - alphas
