from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from sd_pipeline.pipelines.known_region import KnownRegion, restore_known_pixels
from tests.components import tiny_scheduler
from tests.pictures import hole


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(mask) -> torch.Tensor:
    return torch.from_numpy(mask)[None, None]


HOLES = {
    "rectangle": hole(),
    "pixel": hole(left=5, top=9, right=6, bottom=10),
    "all but a corner": 1 - hole(left=0, top=0, right=1, bottom=1),
    "left margin": hole(left=0, top=0, right=30, bottom=32),
}


@pytest.mark.parametrize("feather", [1, 4, 8])
@pytest.mark.parametrize("name", HOLES)
def test_kept_pixels_are_those_of_the_original(name, feather):
    mask = batch_of(HOLES[name])
    made, original = draw(0, 1, 3, 32, 32), draw(1, 1, 3, 32, 32)
    result = restore_known_pixels(made, original, mask, feather)
    kept = (mask == 0).expand_as(original)
    assert torch.equal(result[kept], original[kept])
    assert torch.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize("feather", [1, 4, 8])
@pytest.mark.parametrize("name", HOLES)
def test_nothing_of_the_original_in_the_hole_leaks(name, feather):
    mask = batch_of(HOLES[name])
    made, original = draw(0, 1, 3, 32, 32), draw(1, 1, 3, 32, 32)
    other = torch.where(mask == 1, draw(2, 1, 3, 32, 32), original)
    expected = restore_known_pixels(made, original, mask, feather)
    assert torch.equal(restore_known_pixels(made, other, mask, feather), expected)


@pytest.mark.parametrize("feather", [1, 4, 8])
def test_a_constant_difference_is_carried_on_and_fades_with_the_distance(feather):
    mask = batch_of(hole(left=16, top=0, right=32, bottom=32))
    made, original = torch.full((1, 3, 32, 32), 0.4), torch.full((1, 3, 32, 32), 0.6)
    result = restore_known_pixels(made, original, mask, feather)
    distance = torch.arange(32) - 15.0
    expected = 0.4 + 0.2 * (1 - distance / (feather + 1)).clamp(0, 1)
    torch.testing.assert_close(result, expected.expand(1, 3, 32, 32))
    assert result.diff(dim=-1).abs().max() < 0.2 / (feather + 1) + 1e-6, "no seam"


def test_far_corner_fades_by_the_straight_distance():
    mask = batch_of(1 - hole(left=0, top=0, right=1, bottom=1))
    made, original = torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32)
    result = restore_known_pixels(made, original, mask, 4)[0, 0]
    assert result[3, 3] == pytest.approx(1 - 18**0.5 / 5, abs=1e-6)
    assert not result[5:].any()
    assert not result[:, 5:].any()


def test_what_was_made_well_stays_as_it_is():
    made, mask = draw(0, 2, 3, 32, 32), batch_of(hole()).expand(2, 1, 32, 32)
    assert torch.equal(restore_known_pixels(made, made.clone(), mask, 4), made)


def test_images_of_a_batch_do_not_touch_each_other():
    masks = torch.cat([batch_of(HOLES["rectangle"]), batch_of(HOLES["left margin"])])
    made, original = draw(0, 2, 3, 32, 32), draw(1, 2, 3, 32, 32)
    together = restore_known_pixels(made, original, masks, 4)
    for number in range(2):
        one = slice(number, number + 1)
        assert torch.equal(restore_known_pixels(made[one], original[one], masks[one], 4), together[one])


def test_half_precision_loses_no_bit_of_the_original():
    made, original, mask = draw(0, 1, 3, 32, 32).bfloat16(), draw(1, 1, 3, 32, 32), batch_of(hole())
    result = restore_known_pixels(made, original, mask, 4)
    assert result.dtype == torch.float32
    assert torch.equal(result[(mask == 0).expand_as(result)], original[(mask == 0).expand_as(result)])


@pytest.mark.parametrize("scheduler", [tiny_scheduler(), DDIMScheduler()], ids=lambda one: type(one).__name__)
def test_known_latents_are_put_back_at_the_next_noise_level(scheduler):
    latents, noise, made = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :4], mask[1, :, :, 2] = 1, 1
    known = KnownRegion(latents, noise, mask)
    alpha_bar = scheduler.alphas_cumprod[500]
    result = known.put_back(made, scheduler, torch.tensor(500))
    expected = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
    torch.testing.assert_close(result, torch.where(mask == 1, made, expected))
    assert torch.equal(known.put_back(made, scheduler, None), torch.where(mask == 1, made, latents))


def test_known_latents_follow_the_sigmas_of_a_scheduler_that_counts_its_steps():
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    scheduler.set_begin_index(1)
    latents, noise, made = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    made = scheduler.step(made, scheduler.timesteps[1], made).prev_sample
    known = KnownRegion(latents, noise, torch.zeros(1, 1, 8, 8))
    result = known.put_back(made, scheduler, scheduler.timesteps[2])
    torch.testing.assert_close(result, latents + scheduler.sigmas[2] * noise)
