"""What is drawn for held-out images: fixed, one timestep in every stratum, and all of them covered alike."""

from __future__ import annotations

import pytest
import torch

from tests.training.configurations import some_digits
from training.data.captioned_images import CaptionedImages
from training.data.held_out_draws import (
    diffusion_noise,
    fixed_caption,
    fixed_masks,
    fixed_noise,
    fixed_timesteps,
)


@pytest.mark.parametrize(("num_strata", "num_timesteps"), [(10, 1000), (10, 128), (7, 1000), (1, 10), (20, 10)])
def test_an_image_has_one_timestep_in_every_stratum(num_strata, num_timesteps):
    timesteps = fixed_timesteps(range(300), num_strata, num_timesteps)
    assert (timesteps.shape, timesteps.dtype) == ((300, num_strata), torch.int64)
    starts = torch.arange(num_strata + 1) * num_timesteps / num_strata
    assert (timesteps >= starts[:-1].floor()).all()
    assert (timesteps < starts[1:].ceil()).all()


@pytest.mark.parametrize("function", [torch.sqrt, torch.square, lambda t: (t == 999).double()])
def test_over_the_images_every_timestep_counts_alike(function):
    """Without bias: the mean over images lies within its standard error of the mean over the schedule."""
    of_image = function(fixed_timesteps(range(4000), 10, 1000).double()).mean(1)
    expected = function(torch.arange(1000).double()).mean()
    error = of_image.std() / len(of_image) ** 0.5
    assert (of_image.mean() - expected).abs() < 3 * error
    alone = function((torch.rand(4000, 10, generator=torch.Generator().manual_seed(0)) * 1000).floor().double())
    assert error <= alone.mean(1).std() / len(of_image) ** 0.5


def test_draws_belong_to_the_image_and_to_their_purpose():
    together = fixed_noise("posterior", range(6), (4, 8, 8))
    assert torch.equal(torch.cat([fixed_noise("posterior", [image], (4, 8, 8)) for image in range(6)]), together)
    noise = diffusion_noise([0, 0, 1], [0, 1, 0], (4, 8, 8))
    assert torch.equal(noise[1:2], diffusion_noise([0], [1], (4, 8, 8)))
    drawn = torch.cat([together[:2], noise]).flatten(1)
    assert (torch.corrcoef(drawn) - torch.eye(5)).abs().max() < 4 / drawn.shape[1] ** 0.5
    masks = fixed_masks(range(6), 32, 48)
    assert masks.shape == (6, 1, 32, 48)
    assert torch.equal(fixed_masks([4], 32, 48), masks[4:5])


def test_of_several_captions_it_is_the_first():
    digits = some_digits(2)
    assert fixed_caption(digits, 1) == digits[1]["caption"]
    digits.source.captions[1] = ["a one", "another one"]
    for seed in range(4):
        assert fixed_caption(CaptionedImages(digits.source, 32, seed=seed), 1) == "a one"
