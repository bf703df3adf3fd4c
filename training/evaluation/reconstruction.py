"""How well an autoencoder gives an image back."""

from __future__ import annotations

import torch

from sd_pipeline import SDAutoencoderKL
from training.data.captioned_images import CaptionedImages


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


@torch.no_grad()
def reconstruct(vae: SDAutoencoderKL, pixel_values: torch.Tensor) -> torch.Tensor:
    """Send images through an autoencoder, by the mode of its posterior.

    Args:
        vae (`SDAutoencoderKL`): The autoencoder.
        pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`): In [-1, 1].

    Returns:
        `torch.Tensor` of the same shape, on the CPU.
    """
    parts = [
        vae.decode(vae.encode(part.to(vae.device, vae.dtype)).latent_dist.mode()).sample.float().cpu()
        for part in pixel_values.split(32)
    ]
    return torch.cat(parts)


def psnr_of_autoencoder(vae: SDAutoencoderKL, dataset: CaptionedImages) -> float:
    """Average the PSNR of all images of a data set, in decibels."""
    originals = torch.stack([dataset[index]["pixel_values"] for index in range(len(dataset))])
    return float(psnr(reconstruct(vae, originals), originals).mean())
