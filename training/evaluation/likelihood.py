"""Bits of an image under a whole latent diffusion model: an upper bound of -ln p(x), with every term of the sum.

-ln p(x) <= E_q[-ln p(x|z) + ln q(z|x) + bound on -ln p(z)],  z ~ q(z|x)

The autoencoder's evidence lower bound (report eq. 8), with the diffusion model's bound (eq. 16) in the place of the
prior. In pixel space x is z, and the bound stands alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sd_pipeline import SDAutoencoderKL
from sd_pipeline.latents import latent_prior, scale_latents
from sd_pipeline.schedulers.bound_of_schedule import BoundOfSchedule
from training.evaluation.pixel_likelihoods import PixelLikelihood

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The network: x_t in float32 and timesteps of shape `(batch_size,)` in, its output out."""


@dataclass(frozen=True)
class CodeLengths:
    """What the autoencoder adds to the bits of its latents, in nats an image.

    Args:
        latents (`torch.Tensor` of shape `(batch_size, channels, height, width)`): z, as the diffusion model sees them.
        decoded (`torch.Tensor` of shape `(batch_size, channels, height, width)`): What z is decoded to.
        reconstruction (`torch.Tensor` of shape `(batch_size,)`): -ln p(x|z), the distortion; at least 0.
        posterior (`torch.Tensor` of shape `(batch_size,)`): ln q(z|x), what is got back for the freedom in z.
        divergence (`torch.Tensor` of shape `(batch_size,)`, *optional*): KL(q(z|x) || p(z)) to the autoencoder's own
            prior, of which reconstruction + divergence is the bound; `None` where that is not recorded.
    """

    latents: torch.Tensor
    decoded: torch.Tensor
    reconstruction: torch.Tensor
    posterior: torch.Tensor
    divergence: torch.Tensor | None


@torch.no_grad()
def code_lengths(
    vae: SDAutoencoderKL, pixel_values: torch.Tensor, noise: torch.Tensor, likelihood: PixelLikelihood
) -> CodeLengths:
    """Encode images with a sample of the posterior, and count the autoencoder's terms.

    Args:
        vae (`SDAutoencoderKL`): The autoencoder.
        pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Levels of 8 bits in [-1, 1].
        noise (`torch.Tensor` of the latents' shape): Standard normal, the sample's.
        likelihood (`PixelLikelihood`): p(x|z).

    Returns:
        `CodeLengths`: In float64.
    """
    posterior = vae.encode(pixel_values.to(vae.dtype)).latent_dist
    raw = posterior.reparameterise(noise.to(posterior.mean))
    decoded = vae.decode(raw).sample.double()
    prior = latent_prior(vae.config, raw)
    # In the coordinates of the diffusion model the density is that of raw latents over the volume they are scaled by.
    scale = scale_latents(torch.ones_like(raw[:1]), vae.config) - scale_latents(torch.zeros_like(raw[:1]), vae.config)
    return CodeLengths(
        latents=scale_latents(raw, vae.config),
        decoded=decoded,
        reconstruction=likelihood.nll(pixel_values, decoded),
        posterior=posterior.log_prob(raw).double() - scale.double().log().sum(),
        divergence=None if prior is None else posterior.kl(prior).double(),
    )


@torch.no_grad()
def term_of_timestep(
    bound: BoundOfSchedule, predict: Predict, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Diffuse each sample to its timestep and give that term of the bound.

    Args:
        bound (`BoundOfSchedule`): The schedule and its terms.
        predict (callable): The network.
        x_0 (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Clean samples.
        noise (`torch.Tensor`, same shape): Standard normal.
        timesteps (`torch.LongTensor` of shape `(batch_size,)`): t.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float64: nats.
    """
    x_0 = x_0.double()
    x_t = bound.scheduler.add_noise(x_0, noise.double(), timesteps)
    return bound.term(predict(x_t.float(), timesteps).double(), x_0, x_t, timesteps)


def all_terms(
    bound: BoundOfSchedule, predict: Predict, x_0: torch.Tensor, draw_noise: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """Give every timestep's term of every sample: L_0, then the divergences. Their sum and L_T are the bound.

    Args:
        bound (`BoundOfSchedule`): The schedule and its terms.
        predict (callable): The network.
        x_0 (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Clean samples.
        draw_noise (callable): Gives the noise of the next timestep, of the shape of `x_0`.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_train_timesteps)`, float64: nats.
    """
    ones = torch.ones(len(x_0), dtype=torch.int64, device=x_0.device)
    steps = range(len(bound.scheduler))
    return torch.stack([term_of_timestep(bound, predict, x_0, draw_noise(), t * ones) for t in steps], dim=1)


def importance_of_timesteps(second_moments: torch.Tensor) -> torch.Tensor:
    """Give the probabilities that make an estimate of the sum of all terms least noisy.

    p_t proportional to sqrt(E[L_t^2])        (Nichol and Dhariwal 2021, Eq. 18)

    Args:
        second_moments (`torch.Tensor` of shape `(num_train_timesteps,)`): E[L_t^2], of some samples; at least 0.

    Returns:
        `torch.Tensor` of the same shape, summing to 1; none is below a hundredth of the mean, so that a term is
        found that those samples did not show.

    Raises:
        ValueError: If all are 0.
    """
    roots = second_moments.double().sqrt()
    if not bool((roots > 0).any()):
        raise ValueError("all second moments are 0; at least one must be above")
    probabilities = roots / roots.sum()
    floor = 0.01 / len(roots)
    return floor + (1 - 0.01) * probabilities


def drawn_timesteps(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw timesteps of given probabilities.

    Args:
        probabilities (`torch.Tensor` of shape `(num_train_timesteps,)`): Summing to 1.
        uniforms (`torch.Tensor`, any shape): In [0, 1).

    Returns:
        `torch.LongTensor` of the shape of `uniforms`.
    """
    ends = probabilities.double().cumsum(0)
    drawn = torch.searchsorted(ends, uniforms.double(), right=True)
    return drawn.clamp(max=len(probabilities) - 1)
