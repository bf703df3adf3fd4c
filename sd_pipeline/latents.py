"""Between the raw latents of an autoencoder and the standardised latents of a diffusion model. Nothing else scales."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sd_pipeline.models.gaussian import DiagonalGaussian
from sd_pipeline.stock_config import facts_of, record_facts

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from sd_pipeline.models.autoencoder_kl import SDAutoencoderKL


def scale_latents(raw_latents: torch.Tensor, vae_config: Mapping[str, Any]) -> torch.Tensor:
    """Bring what the autoencoder encodes to about unit variance.

    latents = (raw_latents - mean) * scaling_factor / std. Mean and std are `latents_mean` and `latents_std`, one a
    channel; without them the mean is `shift_factor`, or 0, and the std 1.

    Args:
        raw_latents (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
            A sample or the mode of the posterior. Floating point.
        vae_config (mapping): The autoencoder's `config`.

    Returns:
        `torch.Tensor` of the same shape and dtype: latents of the diffusion model.
    """
    scaling_factor = vae_config["scaling_factor"]
    statistics = _channel_statistics(vae_config, raw_latents)
    if statistics is not None:
        mean, std = statistics
        return (raw_latents - mean) * scaling_factor / std
    return (raw_latents - (vae_config.get("shift_factor") or 0.0)) * scaling_factor


def unscale_latents(latents: torch.Tensor, vae_config: Mapping[str, Any]) -> torch.Tensor:
    """Undo `scale_latents`, so that the autoencoder can decode.

    raw_latents = latents * std / scaling_factor + mean

    Args:
        latents (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`):
            Latents of the diffusion model, about unit variance. Floating point.
        vae_config (mapping): The autoencoder's `config`.

    Returns:
        `torch.Tensor` of the same shape and dtype: raw latents.
    """
    scaling_factor = vae_config["scaling_factor"]
    statistics = _channel_statistics(vae_config, latents)
    if statistics is not None:
        mean, std = statistics
        return latents * std / scaling_factor + mean
    return latents / scaling_factor + (vae_config.get("shift_factor") or 0.0)


def _channel_statistics(
    vae_config: Mapping[str, Any], latents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    mean, std = vae_config.get("latents_mean"), vae_config.get("latents_std")
    if mean is None or std is None:
        return None
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)


@torch.no_grad()
def fold_latent_statistics(vae: SDAutoencoderKL | AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Rewrite an autoencoder, in place, so that its latents are standard and `scaling_factor` is 1.

    With m, s the mean and standard deviation of a channel of sampled raw latents, new latents are (z - m) / s:

        quant_conv, mean rows:          W / s,       (b - m) / s
        quant_conv, log-variance rows:  W,           b - 2 ln s
        post_quant_conv:                W diag(s),   b + W m

    Both convolutions are 1x1, without padding, so decoded images are unchanged in exact arithmetic. Stock pipelines of
    diffusers, which know one scalar factor only, then see standard latents in every channel. The prior N(0, I) of the
    autoencoder becomes N(-m/s, diag(1/s^2)) in the new coordinates, and is recorded for `latent_prior`. The
    posterior's clamp of the log-variance to [-30, 20] is not folded: it should be inactive before and after, that is,
    log-variances should stay in [-30 + 2 ln max(s, 1), 20 + 2 ln min(s, 1)].

    Args:
        vae (`SDAutoencoderKL` or diffusers' `AutoencoderKL`): Changed in place, its `config` included.
        mean (`torch.Tensor` of shape `(latent_channels,)`): m, of raw latents. Floating point.
        std (`torch.Tensor` of shape `(latent_channels,)`): s, of raw latents; finite and above 0.

    Raises:
        ValueError: If a quant convolution is missing, a shape or a value is impossible, or the posterior is isotropic
            and the standard deviations differ between channels, which would make it anisotropic.
    """
    config = vae.config
    if vae.quant_conv is None or vae.post_quant_conv is None:
        raise ValueError("folding latent statistics needs use_quant_conv=True and use_post_quant_conv=True")
    _check_statistics(mean, std, config["latent_channels"])
    if config.get("posterior") == "isotropic" and not torch.allclose(std, std[:1].expand_as(std)):
        raise ValueError(f'posterior="isotropic" needs one std for all channels, got {std.tolist()}')

    mean, std = (statistic.to("cpu", torch.float64) for statistic in (mean, std))
    gain, offset = torch.cat([1 / std, torch.ones_like(std)]), torch.cat([-mean / std, -2 * std.log()])
    _set(vae.quant_conv, _weight(vae.quant_conv) * gain[:, None], _bias(vae.quant_conv) * gain + offset)
    decode_weight = _weight(vae.post_quant_conv)
    _set(vae.post_quant_conv, decode_weight * std, _bias(vae.post_quant_conv) + decode_weight @ mean)
    folded = {"scaling_factor": 1.0, "shift_factor": None, "latents_mean": None, "latents_std": None}
    # `from_config` resets every key under `_use_default_values` to the default of the class.
    still_default = [key for key in config.get("_use_default_values", []) if key not in folded]
    vae.register_to_config(**folded, _use_default_values=still_default)
    prior_mean, prior_std = _recorded_prior(config) or (torch.zeros_like(mean), torch.ones_like(std))
    record_facts(vae, prior_mean=((prior_mean - mean) / std).tolist(), prior_std=(prior_std / std).tolist())


def latent_prior(vae_config: Mapping[str, Any], raw_latents: torch.Tensor) -> DiagonalGaussian | None:
    """Give the prior that an autoencoder was trained with, in the coordinates of its raw latents.

    After folding that is N(-m/s, diag(1/s^2)); the evidence lower bound of a folded autoencoder is that of the
    autoencoder before only with this prior.

    Args:
        vae_config (mapping): The autoencoder's `config`.
        raw_latents (`torch.Tensor` of shape `(batch_size, latent_channels, height, width)`): Only their shape counts.

    Returns:
        `DiagonalGaussian`: For `kl`, of the shape of `raw_latents`, in float64; `None` where it is not recorded.

    Raises:
        ValueError: If a recorded shape or value is impossible.
    """
    recorded = _recorded_prior(vae_config)
    if recorded is None:
        return None
    _check_statistics(*recorded, raw_latents.shape[1])
    mean, std = (moment.to(raw_latents.device).view(1, -1, 1, 1).expand(raw_latents.shape) for moment in recorded)
    return DiagonalGaussian(mean, 2 * std.log())


def _recorded_prior(vae_config: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor] | None:
    facts = facts_of(vae_config)
    if not {"prior_mean", "prior_std"} <= facts.keys():
        return None
    mean, std = (torch.tensor(facts[name], dtype=torch.float64) for name in ("prior_mean", "prior_std"))
    return mean, std


def _check_statistics(mean: torch.Tensor, std: torch.Tensor, latent_channels: int) -> None:
    for name, statistic, least in (("mean", mean, -math.inf), ("std", std, 0.0)):
        if tuple(statistic.shape) != (latent_channels,):
            raise ValueError(f"{name} must have shape ({latent_channels},), got {tuple(statistic.shape)}")
        if not (torch.isfinite(statistic) & (statistic > least)).all():
            raise ValueError(f"{name} must be finite and above {least}, got {statistic.tolist()}")


def _weight(conv: nn.Conv2d) -> torch.Tensor:
    return conv.weight.to("cpu", torch.float64).flatten(1)


def _bias(conv: nn.Conv2d) -> torch.Tensor:
    return conv.bias.to("cpu", torch.float64)  # type: ignore[union-attr]


def _set(conv: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor) -> None:
    conv.weight.copy_(weight.view_as(conv.weight))
    conv.bias.copy_(bias)  # type: ignore[union-attr]
