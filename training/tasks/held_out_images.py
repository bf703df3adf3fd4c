"""Held-out images as batches of the U-Net's loss: with fixed draws, and encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from training.data.captioned_images import CaptionedImages
from training.data.held_out_draws import (
    NUM_STRATA,
    diffusion_noise,
    fixed_caption,
    fixed_masks,
    fixed_noise,
    fixed_timesteps,
)
from training.engine.task import Batch

MOST_IMAGES = 64
"""How many a validation looks at: 640 passes of the U-Net, and as many for the weights before averaging."""


class HeldOutImages:
    """The first images of a data set, each at one timestep of every stratum.

    What the frozen autoencoder makes of them is kept in memory.

    Args:
        dataset (`CaptionedImages`): The images, of one size.
        encode (callable): Makes what the U-Net sees of images out of `pixel_values`, `posterior_noise`,
            `masked_posterior_noise` and `mask`: tensors by name, `latents` among them.
        tokens (callable, *optional*): Makes `input_ids` and `caption_rows` out of captions; without it there are none.
        latent_shape (sequence of `int`): Of one image's latents.
        timesteps (`torch.LongTensor` of shape `(num_timesteps,)`): What is trained on, ascending.
        noise_offset (`float`, defaults to 0.0): As in training.
    """

    def __init__(
        self,
        dataset: CaptionedImages,
        encode: Callable[[Batch], Batch],
        tokens: Callable[[Sequence[str]], Batch] | None,
        latent_shape: Sequence[int],
        timesteps: torch.Tensor,
        noise_offset: float = 0.0,
    ) -> None:
        self.dataset = dataset
        self.encode = encode
        self.tokens = tokens
        self.latent_shape = tuple(latent_shape)
        self.timesteps = timesteps
        self.noise_offset = noise_offset
        self._seen: dict[int, tuple[Batch, str]] = {}

    def __len__(self) -> int:
        return min(len(self.dataset), MOST_IMAGES)

    def batches(self, batch_size: int) -> list[Callable[[], Batch]]:
        """Give the batches, each of which is made when it is called.

        Args:
            batch_size (`int`): Samples of a batch; an image has `NUM_STRATA` of them, one after the other.
        """
        samples = [(image, stratum) for image in range(len(self)) for stratum in range(NUM_STRATA)]
        firsts = range(0, len(samples), batch_size)
        return [partial(self.batch, samples[first : first + batch_size]) for first in firsts]

    def batch(self, samples: Sequence[tuple[int, int]]) -> Batch:
        """Make the batch of some samples.

        Args:
            samples (sequence of `(int, int)`): Image and stratum.

        Returns:
            `dict`: `noise`, `timesteps`, what `encode` and `tokens` give.
        """
        images, strata = [image for image, _ in samples], [stratum for _, stratum in samples]
        seen = [self._encoded(image) for image in images]
        batch = {name: torch.stack([encoded[name] for encoded, _ in seen]) for name in seen[0][0]}
        batch["noise"] = diffusion_noise(images, strata, self.latent_shape)
        if self.noise_offset:
            batch["noise"] += self.noise_offset * fixed_noise("offset", images, (self.latent_shape[0], 1, 1))
        rows = fixed_timesteps(images, NUM_STRATA, len(self.timesteps))
        batch["timesteps"] = self.timesteps[rows[torch.arange(len(samples)), torch.tensor(strata)]]
        return batch if self.tokens is None else batch | self.tokens([caption for _, caption in seen])

    def _encoded(self, image: int) -> tuple[Batch, str]:
        """Encode an image and give its caption; another time, give what was made then."""
        if image not in self._seen:
            sample = self.dataset[image]
            pixel_values = sample["pixel_values"][None]
            drawn = {
                "pixel_values": pixel_values,
                "posterior_noise": fixed_noise("posterior", [image], self.latent_shape),
                "masked_posterior_noise": fixed_noise("masked posterior", [image], self.latent_shape),
                "mask": fixed_masks([image], *pixel_values.shape[-2:]),
            }
            encoded = {name: value[0].cpu() for name, value in self.encode(drawn).items()}
            self._seen[image] = encoded, fixed_caption(self.dataset, sample["index"])
        return self._seen[image]
