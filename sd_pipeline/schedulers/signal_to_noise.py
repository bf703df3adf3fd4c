"""The signal-to-noise ratio of a timestep and the weights of losses that follow from it, as pure functions.

Ratio and min-SNR weights are finite or exactly infinite at zero terminal SNR, never NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def snr(alphas_cumprod: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Give the signal-to-noise ratio of x_t: snr = alpha_bar / (1 - alpha_bar) (Hang et al. 2023, section 3.1).

    Args:
        alphas_cumprod (`torch.Tensor` of shape `(num_train_timesteps,)`):
            alpha_bar of every step, floating point, in [0, 1).
        timesteps (`torch.LongTensor`, any shape):
            Steps in [-1, num_train_timesteps); -1 stands for the data themselves.

    Returns:
        `torch.Tensor` of the shape of `timesteps` and the dtype of `alphas_cumprod`: in [0, inf]; 0 at zero terminal
        SNR and inf at timestep -1.
    """
    from_data = F.pad(alphas_cumprod, (1, 0), value=1.0).to(timesteps.device)
    alpha_bar = from_data[timesteps + 1]
    return alpha_bar / (1 - alpha_bar)


def min_snr_weights(
    snr: torch.Tensor, gamma: float, prediction_type: str, previous_snr: torch.Tensor | None = None
) -> torch.Tensor:
    """Weight a sample's squared error as if x_0 were predicted, with weight min(snr, gamma) (Hang et al. 2023).

    An error of x_0 shows in each target scaled, so the square of the scale is divided out:

    sample         x_0 itself                                  w = min(snr, gamma)
    epsilon        d epsilon^2 = snr d x_0^2                   w = min(snr, gamma) / snr = min(1, gamma / snr)
    v_prediction   d v^2 = (snr + 1) d x_0^2                   w = min(snr, gamma) / (snr + 1)
    mean           d mu_tilde^2 = c_0^2 d x_0^2                w = min(snr, gamma) / c_0^2

    For `mean`, c_0 = sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t) (report eq. 18, corrected). With alpha_bar =
    snr / (1 + snr) at both steps, beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, and s' the SNR at t - 1, this is

    c_0 = (s' - snr) / sqrt(s' (1 + s')) = (1 - snr / s') / sqrt(1 + 1 / s'),

    which is 1 at the first step, where s' is infinite. At zero terminal SNR (snr = 0) the weights are 0, 1, 0 and 0
    in the order of the table: only `epsilon` learns there, and it learns the identity.

    Args:
        snr (`torch.Tensor`): Signal-to-noise ratios at the timesteps, floating point, in [0, inf).
        gamma (`float`): Upper limit of the x_0 weight, positive; the paper takes 5.
        prediction_type (`str`): `"epsilon"`, `"sample"`, `"v_prediction"` or `"mean"`.
        previous_snr (`torch.Tensor`, same shape, *optional*):
            Signal-to-noise ratios at timesteps - 1, in (snr, inf]. Needed for `"mean"` only.

    Returns:
        `torch.Tensor` of the shape of `snr`: finite weights >= 0.

    Raises:
        ValueError: If `gamma` is not positive, `prediction_type` is unknown or `"mean"` has no `previous_snr`.
    """
    if not gamma > 0:
        raise ValueError(f"gamma={gamma} must be greater than 0.")
    capped = snr.clamp(max=gamma)
    if prediction_type == "sample":
        return capped
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1.0)
    if prediction_type == "v_prediction":
        return capped / (snr + 1)
    if prediction_type != "mean":
        raise ValueError(f"prediction_type={prediction_type!r} is not one of epsilon, sample, v_prediction, mean.")
    if previous_snr is None:
        raise ValueError("prediction_type='mean' needs previous_snr, the ratios at timesteps - 1.")
    return capped * (1 + 1 / previous_snr) / (1 - snr / previous_snr).square()


def truncated_snr_weights(snr: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """Weight a sample's squared error as if x_0 were predicted, with weight max(snr, 1).

    (Salimans and Ho 2022, section 4.) Where there is only noise, an error of x_0 still counts: what a step there
    decides, no later one mends. By the table of `min_snr_weights`:

    sample         w = max(snr, 1)
    epsilon        w = max(snr, 1) / snr = max(1, 1 / snr)
    v_prediction   w = max(snr, 1) / (snr + 1)

    Args:
        snr (`torch.Tensor`): Signal-to-noise ratios at the timesteps, floating point, in [0, inf); above 0 for
            `"epsilon"`, which says nothing of x_0 there.
        prediction_type (`str`): `"epsilon"`, `"sample"` or `"v_prediction"`.

    Returns:
        `torch.Tensor` of the shape of `snr`: finite weights > 0.

    Raises:
        ValueError: If `prediction_type` is another.
    """
    scales = {"sample": torch.ones_like(snr), "epsilon": snr, "v_prediction": snr + 1}
    if prediction_type not in scales:
        raise ValueError(f"prediction_type={prediction_type!r} is not one of {', '.join(scales)}.")
    return snr.clamp(min=1.0) / scales[prediction_type]
