"""What training a U-Net to inpaint adds: random masks, and the channels that tell the U-Net of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from sd_pipeline.models.inpainting_channels import latent_mask
from training.data.captioned_images import CaptionedImages
from training.data.mask_sampling import sample_mask
from training.data.pictures import to_picture
from training.engine.random_streams import sample_rng


def draw_masks(seed: int, sample_numbers: Sequence[int], height: int, width: int) -> torch.Tensor:
    """Draw a mask for each sample.

    Args:
        seed (`int`): Of the run.
        sample_numbers (sequence of `int`): Global numbers of the samples, which key the draws.
        height (`int`): Of the images, in pixels.
        width (`int`): Of the images, in pixels.

    Returns:
        `torch.Tensor` of shape `(num_samples, 1, height, width)`, float32: 1 in the hole, else 0.
    """
    masks = [sample_mask(sample_rng(seed, "diffusion/mask", n), height, width) for n in sample_numbers]
    return torch.from_numpy(np.stack(masks)).float()[:, None]


def added_channels(mask: torch.Tensor, masked_latents: torch.Tensor, factor: int) -> torch.Tensor:
    """Put together what a U-Net that inpaints sees beside the noisy latents.

    Args:
        mask (`torch.Tensor` of shape `(batch_size, 1, height * factor, width * factor)`): 1 in the hole, else 0.
        masked_latents (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Of the masked image.
        factor (`int`): Pixels that a latent covers on each axis.

    Returns:
        `torch.Tensor` of shape `(batch_size, 1 + channels, height, width)`, of the dtype of the latents.
    """
    return torch.cat([latent_mask(mask, factor).to(masked_latents), masked_latents], dim=1)


@dataclass(frozen=True)
class HoledPictures:
    """Pictures to inpaint in a validation.

    Args:
        pictures (`list[PIL.Image.Image]`): Whole.
        masks (`list[PIL.Image.Image]`): White where they are to be repainted.
        captions (`list[str]`): Of the pictures.
    """

    pictures: list[Image.Image]
    masks: list[Image.Image]
    captions: list[str]

    @property
    def shown(self) -> list[Image.Image]:
        """The pictures with grey holes."""
        grey = Image.new("RGB", self.pictures[0].size, "grey")
        return [Image.composite(grey, *pair) for pair in zip(self.pictures, self.masks, strict=True)]


def holed_pictures(dataset: CaptionedImages, count: int, seed: int) -> HoledPictures:
    """Take the first pictures of a data set, each with a mask that leaves something of it.

    Args:
        dataset (`CaptionedImages`): The pictures.
        count (`int`): How many, at most.
        seed (`int`): Of the run.
    """
    samples = [dataset[number] for number in range(min(count, len(dataset)))]
    masks = []
    for number, sample in enumerate(samples):
        rng = sample_rng(seed, "validation/mask", number)
        mask = np.ones(1, dtype=bool)
        while mask.all():
            mask = sample_mask(rng, *sample["pixel_values"].shape[-2:])
        masks.append(Image.fromarray(mask.astype(np.uint8) * 255))
    pictures = [to_picture(sample["pixel_values"]) for sample in samples]
    return HoledPictures(pictures, masks, [sample["caption"] for sample in samples])
