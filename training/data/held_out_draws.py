"""What is drawn for held-out images: always the same, whatever the seed of a run, so that what it gives compares.

The number of an image in its data set keys all draws. Two models, or one of them at two times, are asked the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from training.data.captioned_images import CaptionedImages
from training.data.mask_sampling import sample_mask
from training.engine.random_streams import sample_rng, standard_normal, uniform

VALIDATION_IMAGES = 256
"""A validation of the autoencoder, and a comparison, look at no more than these first images of a data set."""

NUM_STRATA = 10
"""At how many timesteps an image is looked at, one in each of as many equal parts of the schedule."""

_SEED = -1  # No run has it.


def fixed_timesteps(images: Sequence[int], num_strata: int, num_train_timesteps: int) -> torch.Tensor:
    """Choose the timesteps of each image, one in every stratum, so that all images together cover all timesteps.

    t_k = floor((k + u) / K T),  k = 0, ..., K - 1,  u uniform in [0, 1), one an image

    Args:
        images (sequence of `int`): Numbers of the images.
        num_strata (`int`): K.
        num_train_timesteps (`int`): T.

    Returns:
        `torch.LongTensor` of shape `(len(images), num_strata)`, ascending in each row, in [0, T).
    """
    points = uniform(_SEED, "held out/timestep", images)[:, None] + torch.arange(num_strata, dtype=torch.float64)
    return (points / num_strata * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def fixed_noise(purpose: str, images: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Draw standard normal noise for each image.

    Args:
        purpose (`str`): What for; two purposes share none.
        images (sequence of `int`): Numbers of the images, one a row.
        shape (sequence of `int`): Of one image's noise.

    Returns:
        `torch.Tensor` of shape `(len(images), *shape)`, float32, on the CPU.
    """
    return standard_normal(_SEED, f"held out/{purpose}", images, shape)


def diffusion_noise(images: Sequence[int], strata: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Draw the noise that images are diffused with, another one in each stratum of the timesteps.

    Args:
        images (sequence of `int`): Numbers of the images, one a row.
        strata (sequence of `int`): Which of its timesteps, one a row.
        shape (sequence of `int`): Of one image's noise.

    Returns:
        `torch.Tensor` of shape `(len(images), *shape)`, float32, on the CPU.
    """
    rows = zip(images, strata, strict=True)
    return torch.cat([fixed_noise(f"noise {stratum}", [image], shape) for image, stratum in rows])


def fixed_masks(images: Sequence[int], height: int, width: int) -> torch.Tensor:
    """Draw the hole of each image, for models that inpaint.

    Args:
        images (sequence of `int`): Numbers of the images.
        height (`int`): In pixels.
        width (`int`): In pixels.

    Returns:
        `torch.Tensor` of shape `(len(images), 1, height, width)`, float32: 1 in the hole, else 0.
    """
    masks = [sample_mask(sample_rng(_SEED, "held out/mask", image), height, width) for image in images]
    return torch.from_numpy(np.stack(masks)).float()[:, None]


def fixed_caption(dataset: CaptionedImages, index: int) -> str:
    """Give the caption of an image, the first one of several, of which the seed of the run would draw.

    Args:
        dataset (`CaptionedImages`): The images.
        index (`int`): The image.
    """
    caption = dataset.source.captions[index]
    return caption if isinstance(caption, str) else caption[0]
