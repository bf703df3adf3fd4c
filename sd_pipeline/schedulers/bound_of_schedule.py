"""The variational bound of a schedule: the terms of `variational_bound` by timestep, an image at a time."""

from __future__ import annotations

import copy
from typing import Literal

import torch

from sd_pipeline.schedulers.scheduling_ddpm import SDDDPMScheduler
from sd_pipeline.schedulers.variational_bound import (
    discretised_gaussian_nll,
    gaussian_nll,
    mean_error_term,
    prior_term,
    step_term,
)

Decoder = Literal["gaussian", "discretised"]
"""What L_0 is: the density of latents, or the probability of 8-bit pixels."""

DECODERS = {"gaussian": gaussian_nll, "discretised": discretised_gaussian_nll}


class BoundOfSchedule:
    """Every term of the bound (report eq. 16) for the timesteps of a scheduler.

    Timesteps count from 0: timestep 0 has L_0, timestep t > 0 the divergence that the report calls L_t. With samples
    in float64 terms are exact to about eight digits: alpha_bar is multiplied up anew in float64, for a beta_t that is
    the difference of two alpha_bar of float32 keeps three.

    Args:
        scheduler ([`SDDDPMScheduler`]): The schedule, what is predicted, and the variance of the reverse steps. Is not
            changed.
        decoder (`str`): `"gaussian"` or `"discretised"`.

    Attributes:
        scheduler ([`SDDDPMScheduler`]): A copy whose `alphas_cumprod` is float64; it makes the x_t of `term`.
    """

    def __init__(self, scheduler: SDDDPMScheduler, decoder: Decoder) -> None:
        self.scheduler = copy.copy(scheduler)
        self.scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), dim=0)
        self.decoder = decoder

    def prior(self, x_0: torch.Tensor) -> torch.Tensor:
        """Give L_T, which no network changes.

        Args:
            x_0 (`torch.Tensor` of shape `(batch_size, ...)`): Clean samples.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`, in [0, inf): nats a sample.
        """
        last = self.scheduler.alphas_cumprod[-1].to(x_0)
        return prior_term(x_0, last).flatten(1).sum(1)

    def term(
        self, model_output: torch.Tensor, x_0: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Give the term of a timestep for each sample, in closed form given its x_t.

        Args:
            model_output (`torch.Tensor` of shape `(batch_size, num_channels, ...)`, or twice the channels): From x_t.
            x_0 (`torch.Tensor` of shape `(batch_size, num_channels, ...)`): Clean samples.
            x_t (`torch.Tensor`, same shape): Noisy ones.
            timesteps (`torch.LongTensor` of shape `(batch_size,)`): t, in [0, num_train_timesteps).

        Returns:
            `torch.Tensor` of shape `(batch_size,)`: nats a sample; at least 0, but for a Gaussian L_0.

        Raises:
            ValueError: If the shapes do not belong together, or a timestep is out of range.
        """
        mean, log_variance = self.scheduler.reverse_moments(model_output, x_t, timesteps)
        decoded = DECODERS[self.decoder](x_0, mean, log_variance).flatten(1).sum(1)
        # Timestep 0 has no divergence; any other stands in for it, and is not taken.
        later = timesteps.clamp(min=1)
        alpha_bar, alpha_bar_prev = (self.scheduler.alpha_bar(one, x_t) for one in (later, later - 1))
        divergence = step_term(x_0, x_t, mean, log_variance, alpha_bar, alpha_bar_prev).flatten(1).sum(1)
        return torch.where(timesteps == 0, decoded, divergence)

    def mean_term(
        self, model_output: torch.Tensor, x_0: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Give |mu_tilde - mu_theta|^2 / (2 sigma_t^2), the part that trains the mean (report eq. 19-20, 23).

        Args:
            model_output (`torch.Tensor`): As in `term`, like the others.
            x_0 (`torch.Tensor`): Clean samples.
            x_t (`torch.Tensor`): Noisy ones.
            timesteps (`torch.LongTensor`): t.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`, in [0, inf): nats a sample.

        Raises:
            ValueError: As in `term`.
        """
        mean, log_variance = self.scheduler.reverse_moments(model_output, x_t, timesteps)
        true_mean, _ = self.scheduler.posterior_mean_variance(x_0, x_t, timesteps, timesteps - 1)
        return mean_error_term(true_mean, mean, log_variance.exp()).flatten(1).sum(1)
