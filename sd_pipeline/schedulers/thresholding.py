"""Dynamic thresholding of a predicted x_0 (Saharia et al. 2022, Imagen, section 2.3)."""

from __future__ import annotations

import torch


def dynamic_threshold(x_0: torch.Tensor, ratio: float, max_value: float) -> torch.Tensor:
    """Clip each sample at its own quantile s of |x_0| and divide by s, so that strong guidance does not saturate it.

    s = min(max(quantile(|x_0|, ratio), 1), max_value);  x_0 -> clip(x_0, -s, s) / s

    Args:
        x_0 (`torch.Tensor` of shape `(batch_size, ...)`): Predicted clean samples, any range.
        ratio (`float`): Quantile, in [0, 1].
        max_value (`float`): Largest threshold, positive.

    Returns:
        `torch.Tensor` of the same shape and dtype, in [-1, 1].
    """
    # Neither quantile nor clamp takes half precision on every device.
    flat = x_0.flatten(1).to(torch.promote_types(x_0.dtype, torch.float32))
    s = torch.quantile(flat.abs(), ratio, dim=1, keepdim=True).clamp(min=1).clamp(max=max_value)
    return (flat.clamp(-s, s) / s).reshape(x_0.shape).to(x_0.dtype)
