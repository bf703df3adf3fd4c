"""How well an autoencoder gives an image back."""

from __future__ import annotations

import torch


def psnr(decoded: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of every image, PSNR = 10 log10(2^2 / MSE).

    Args:
        decoded (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Clipped to [-1, 1] here.
        originals (`torch.Tensor`, same shape): In [-1, 1].

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32, in decibels.
    """
    error = (decoded.float().clamp(-1, 1) - originals.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-12))
