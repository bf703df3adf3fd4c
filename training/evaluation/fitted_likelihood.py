"""The likelihood that a finished autoencoder is measured with: its own, or one fitted to training images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from sd_pipeline import SDAutoencoderKL
from sd_pipeline.stock_config import facts_of
from training.data.captioned_images import CaptionedImages
from training.evaluation.pixel_likelihoods import PixelLikelihood, bernoulli_logits, bernoulli_mass
from training.evaluation.suite import Call

_FITTED_IMAGES = 256
_SHOWN_IMAGES = 16


def spaced(length: int, number: int) -> list[int]:
    """Choose evenly spaced indices.

    Args:
        length (`int`): Of what there is.
        number (`int`): How many at most.

    Returns:
        `list[int]`: Rising.
    """
    number = min(length, number)
    return [index * length // number for index in range(number)]


def likelihood_of(vae: SDAutoencoderKL, training_dataset: CaptionedImages, call: Call) -> tuple[PixelLikelihood, str]:
    """Find out p(x|z): what the autoencoder was trained with, if that is known and has a mass for each level.

    Otherwise it is a Gaussian with the root mean square error of training images, which is its best deviation there.

    Args:
        vae (`SDAutoencoderKL`): The autoencoder.
        training_dataset (`CaptionedImages`): What it was trained on.
        call (`Call`): Its seed names the noise of the latents.

    Returns:
        `tuple[PixelLikelihood, str]`: and where it is from.
    """
    facts = facts_of(vae.config)
    if facts.get("likelihood") == "bernoulli":
        return PixelLikelihood("bernoulli"), "as it was trained"
    if facts.get("likelihood") == "gaussian":
        return PixelLikelihood("gaussian", float(facts["likelihood_std"])), "as it was trained"
    indices = spaced(len(training_dataset), _FITTED_IMAGES)
    errors = [float((decoded - x).square().mean()) for x, decoded in _decoded(vae, training_dataset, indices, call)]
    return PixelLikelihood("gaussian", math.sqrt(sum(errors) / len(errors))), f"error of {len(errors)} training images"


def no_distribution(
    vae: SDAutoencoderKL | None, dataset: CaptionedImages, likelihood: PixelLikelihood | None, call: Call
) -> dict[str, Any] | None:
    """Measure binary cross-entropy on grey values, where an autoencoder was trained with it (report, section 2.5).

    It is no code length: exp(-entropy), summed over the levels that a pixel can have, exceeds 1.

    Args:
        vae (`SDAutoencoderKL`, *optional*): The autoencoder.
        dataset (`CaptionedImages`): Images.
        likelihood (`PixelLikelihood`, *optional*): What it was trained with.
        call (`Call`): Its seed names the noise of the latents.

    Returns:
        `dict[str, Any]` or `None`: the entropy in bits of each value, and the mean of that sum.
    """
    if vae is None or likelihood is None or likelihood.kind != "bernoulli":
        return None
    entropies, masses = [], []
    for pixel_values, decoded in _decoded(vae, dataset, spaced(len(dataset), _SHOWN_IMAGES), call):
        logits = bernoulli_logits(decoded)
        entropies.append(float(F.binary_cross_entropy_with_logits(logits, (pixel_values + 1) / 2)) / math.log(2))
        masses.append(float(bernoulli_mass(logits).mean()))
    names = ("binary_cross_entropy_in_bits", "sum_over_levels")
    return {name: sum(values) / len(values) for name, values in zip(names, (entropies, masses), strict=True)}


@torch.no_grad()
def _decoded(
    vae: SDAutoencoderKL, dataset: CaptionedImages, indices: Iterable[int], call: Call
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images, each a batch, with what a sample of their posterior is decoded to."""
    for index in indices:
        pixel_values = dataset[index]["pixel_values"][None].to(vae.device)
        posterior = vae.encode(pixel_values.to(vae.dtype)).latent_dist
        yield pixel_values.double(), vae.decode(posterior.sample(call.generator(index))).sample.double()
