"""The part of a picture that is known, in the loop and in the result.

In the loop, what is known is put back after every step, at the noise level of the next one. In the result, the pixels
that are kept are those of the input, to the bit; a seam between them and what was made is faded out inside the hole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter

from sd_pipeline.pipelines.scheduler_use import Scheduler


@dataclass(frozen=True)
class KnownRegion:
    """Latents of which a part is known.

    Args:
        latents (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): x_0 of the known part; floating
            point. What it holds in the hole has no effect.
        noise (`torch.Tensor`, same shape and dtype): The noise that they get, the same in every step.
        mask (`torch.Tensor` of shape `(batch_size, 1, height, width)`): 1 in the hole, 0 where it is known.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor

    def put_back(
        self, latents: torch.Tensor, scheduler: Scheduler, next_timestep: torch.Tensor | None
    ) -> torch.Tensor:
        """Replace the known part of the loop's latents.

        x_t = m x_t + (1 - m) (sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise)    (Lugmayr et al. 2022, eq. 8)

        Args:
            latents (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): What a step led to.
            scheduler (`Scheduler`): Adds the noise.
            next_timestep (`torch.Tensor` of shape `()`, *optional*): t; `None` after the last step, without noise.

        Returns:
            `torch.Tensor` of the same shape and dtype.
        """
        known = self.latents
        if next_timestep is not None:
            known = scheduler.add_noise(known, self.noise, next_timestep.reshape(1))
        return (1 - self.mask) * known + self.mask * latents


def restore_known_pixels(made: torch.Tensor, original: torch.Tensor, hole: torch.Tensor, feather: int) -> torch.Tensor:
    """Put the kept pixels of the original into a picture, bit for bit, and fade the seam out inside the hole.

    Whatever the autoencoder changed in the kept pixels, d = original - made, ends at the edge of the hole in a seam.
    It is carried on into the hole as a mean of d over nearby kept pixels, which fades within `feather` pixels:

        result = made + max(0, 1 - distance / (feather + 1)) (G * (1 - h) d) / (G * (1 - h))    in the hole, h = 1

    with a Gaussian G of standard deviation feather / 2 and the distance to the nearest kept pixel. Nothing of what the
    original shows inside the hole comes back.

    Args:
        made (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Generated pictures, in [0, 1].
        original (`torch.Tensor`, same shape): The originals, in [0, 1], float32.
        hole (`torch.Tensor` of shape `(batch_size, 1, height, width)`): 1 where the picture is repainted, else 0.
        feather (`int`): Width of the seam in pixels, at least 1.

    Returns:
        `torch.Tensor` of the same shape, float32, on the CPU: in [0, 1], and `original` where `hole` is 0.
    """
    made, original, hole = made.float().cpu(), original.float().cpu(), hole.float().cpu()
    corrections = [
        _carried_on(difference, outside, feather)
        for difference, outside in zip((original - made).double().numpy(), (hole[:, 0] == 0).numpy(), strict=True)
    ]
    corrected = (made + torch.from_numpy(np.stack(corrections)).float()).clamp(0, 1)
    return torch.where(hole == 0, original, corrected)


def _carried_on(difference: np.ndarray, outside: np.ndarray, feather: int) -> np.ndarray:
    """Extend (channels, height, width) values from outside a hole into it, fading with the distance."""

    def blur(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, sigma=feather / 2, truncate=6, axes=(-2, -1), mode="constant")

    fade = np.clip(1 - distance_transform_edt(~outside) / (feather + 1), 0, None)
    weight = blur(outside.astype(np.float64))
    mean = blur(difference * outside) / np.maximum(weight, np.finfo(np.float64).tiny)
    return np.where(weight > 0, fade * mean, 0)
