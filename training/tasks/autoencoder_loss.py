"""The autoencoder with its loss: the evidence lower bound, a perceptual distance, and a discriminator's judgement."""

from __future__ import annotations

import torch
from torch.func import functional_call

from sd_pipeline import SDAutoencoderKL
from training.config import AutoencoderConfig
from training.tasks.adversarial_losses import adaptive_weight, generator_loss
from training.tasks.losses import bernoulli_nll, gaussian_nll, laplace_nll
from training.tasks.patch_discriminator import PatchDiscriminator
from training.tasks.perceptual_distance import PerceptualDistance


class AutoencoderLoss(torch.nn.Module):
    """The negative evidence lower bound (report eq. 8) in nats a pixel value, and what is added to it.

    loss = reconstruction + kl_scale KL + perceptual.scale d(x, x') + lambda adversarial.scale adversarial

    Args:
        vae (`SDAutoencoderKL`): The autoencoder.
        config (`AutoencoderConfig`): Likelihood and factors.
        perceptual (`PerceptualDistance`, *optional*): d, on the autoencoder's device.
        discriminator (`PatchDiscriminator`, *optional*): It is trained elsewhere, by an optimizer of its own.
    """

    def __init__(
        self,
        vae: SDAutoencoderKL,
        config: AutoencoderConfig,
        perceptual: PerceptualDistance | None = None,
        discriminator: PatchDiscriminator | None = None,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.config = config
        self.log_std = None
        if config.learn_likelihood_std:
            self.log_std = torch.nn.Parameter(torch.tensor([config.likelihood_std]).log())
        # In tuples, or they would be parts of this module: trained, averaged and saved with the autoencoder.
        self._perceptual = (perceptual,)
        self._discriminator = (discriminator,)

    def forward(
        self, pixel_values: torch.Tensor, noise: torch.Tensor, is_judged: bool = False
    ) -> dict[str, torch.Tensor]:
        """Encode, reparameterise (report eq. 11), decode, compare.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`): In [-1, 1].
            noise (`torch.Tensor` of the latents' shape): Standard normal.
            is_judged (`bool`, defaults to `False`): Whether the discriminator takes part by now.

        Returns:
            `dict` of tensors of shape `(batch_size,)`: `"loss"` and its parts `"reconstruction"`, `"kl"`, and where
            they take part `"perceptual"`, `"adversarial"`, `"adaptive_weight"`, `"likelihood_std"`; and `"decoded"`,
            of the images' shape. The reconstruction has the constant ln std only where that is learned.
        """
        posterior = self.vae.encode(pixel_values).latent_dist
        latents = posterior.reparameterise(noise)
        decoded = self.vae.decode(latents.to(pixel_values.dtype)).sample
        num_values = pixel_values[0].numel()
        parts = {"reconstruction": self._nll(pixel_values, decoded) / num_values, "kl": posterior.kl() / num_values}
        faithful = parts["reconstruction"]
        if self.log_std is not None:
            parts["likelihood_std"] = self.log_std.exp().expand(len(faithful))
        (perceptual,) = self._perceptual
        if perceptual is not None:
            parts["perceptual"] = perceptual(pixel_values, decoded)
            faithful = faithful + self.config.perceptual.scale * parts["perceptual"]
        loss = faithful + self.config.kl_scale * parts["kl"]
        if is_judged:
            parts["adversarial"] = self._judged(decoded)
            weight = torch.ones((), device=loss.device)
            if self.config.adversarial.adaptive_weight:
                layer = self.vae.decoder.conv_out.weight
                weight = adaptive_weight(faithful.mean(), parts["adversarial"].mean(), layer)
            parts["adaptive_weight"] = weight.expand(len(loss))
            loss = loss + weight * self.config.adversarial.scale * parts["adversarial"]
        return {"loss": loss, **parts, "decoded": decoded}

    def _nll(self, pixel_values: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        if self.config.likelihood == "bernoulli":
            return bernoulli_nll(pixel_values, decoded)
        if self.log_std is not None:
            constant = pixel_values[0].numel() * self.log_std
            return gaussian_nll(pixel_values, decoded, self.log_std.exp()) + constant
        nll = gaussian_nll if self.config.likelihood == "gaussian" else laplace_nll
        return nll(pixel_values, decoded, self.config.likelihood_std)

    def _judged(self, decoded: torch.Tensor) -> torch.Tensor:
        """Let the discriminator judge; the gradient goes through it to the autoencoder, and leaves it as it is."""
        (discriminator,) = self._discriminator
        assert discriminator is not None  # The task says when one takes part.
        frozen = {name: parameter.detach() for name, parameter in discriminator.layers.named_parameters()}
        return generator_loss(functional_call(discriminator.layers, frozen, (decoded,)))
