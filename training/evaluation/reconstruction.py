"""How well an autoencoder gives an image back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure
from transformers import CLIPModel

from sd_pipeline import SDAutoencoderKL
from training.data.captioned_images import CaptionedImages
from training.evaluation.set_distance import frechet_distance
from training.evaluation.spreading import spread

_BATCH = 32


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


def ssim(decoded: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Structural similarity of every image (Wang et al. 2004): Gaussian windows, here by torchmetrics.

    Args:
        decoded (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Clipped to [-1, 1] here.
        originals (`torch.Tensor`, same shape): In [-1, 1].

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32, at most 1.
    """
    clipped = decoded.float().clamp(-1, 1)
    measured = structural_similarity_index_measure(clipped, originals.float(), data_range=2.0, reduction="none")
    return measured.reshape(len(originals))  # type: ignore[union-attr]


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
        for part in pixel_values.split(_BATCH)
    ]
    return torch.cat(parts)


def psnr_of_autoencoder(vae: SDAutoencoderKL, dataset: CaptionedImages) -> float:
    """Average the PSNR of all images of a data set, in decibels."""
    originals = torch.stack([dataset[index]["pixel_values"] for index in range(len(dataset))])
    return float(psnr(reconstruct(vae, originals), originals).mean())


class _Compared(NamedTuple):
    psnr: float
    ssim: float
    pair: torch.Tensor
    features: np.ndarray | None


@torch.no_grad()
def compare_reconstructions(
    vae: SDAutoencoderKL, dataset: CaptionedImages, count: int, clip: CLIPModel | None = None
) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Compare images with their reconstructions by the posterior's mode; every process has to call it alike.

    Args:
        vae (`SDAutoencoderKL`): The autoencoder.
        dataset (`CaptionedImages`): Held-out images, all of one size.
        count (`int`): How many of them, from the first one on.
        clip (`CLIPModel`, *optional*): A CLIP for pixel values in [-1, 1], on the device of the autoencoder.

    Returns:
        Means of `"psnr"` (decibels) and `"ssim"`, with a CLIP also `"reconstruction_distance"`: the Frechet distance
        between the image embeddings of originals and reconstructions. And for each image a `torch.Tensor` of shape
        `(2, 3, height, width)`: original and reconstruction.
    """

    def compare(indices: Sequence[int]) -> list[_Compared]:
        originals = torch.stack([dataset[index]["pixel_values"] for index in indices])
        decoded = reconstruct(vae, originals)
        features: list[np.ndarray | None] = [None] * len(indices)
        if clip is not None:
            sides = [_embedded(clip, images) for images in (originals, decoded.clamp(-1, 1))]
            features = list(np.stack(sides, axis=1))
        pairs = torch.stack([originals, decoded], dim=1)
        values = (psnr(decoded, originals).tolist(), ssim(decoded, originals).tolist(), pairs, features)
        return [_Compared(*each) for each in zip(*values, strict=True)]

    compared = spread(compare, range(count), _BATCH)
    metrics = {name: float(np.mean([getattr(each, name) for each in compared])) for name in ("psnr", "ssim")}
    if clip is not None:
        embedded = np.stack([each.features for each in compared if each.features is not None])
        metrics["reconstruction_distance"] = frechet_distance(embedded[:, 0], embedded[:, 1])
    return metrics, [each.pair for each in compared]


def _embedded(clip: CLIPModel, pixel_values: torch.Tensor) -> np.ndarray:
    pooled = clip.vision_model(pixel_values=pixel_values.to(clip.device)).pooler_output
    return clip.visual_projection(pooled).float().cpu().numpy()
