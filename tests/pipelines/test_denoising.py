from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import nn

from sd_pipeline.pipelines.denoising import DenoisingInputs, denoise, guide, rescale_guided
from sd_pipeline.pipelines.known_region import KnownRegion
from sd_pipeline.pipelines.scheduler_use import fit_for_latents, set_timesteps, start_late, step_arguments
from tests.components import tiny_scheduler, tiny_unconditional_unet


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return tiny_unconditional_unet()


def start(scheduler, num_inference_steps: int = 3, **changes) -> DenoisingInputs:
    timesteps = set_timesteps(scheduler, num_inference_steps)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return DenoisingInputs(latents=latents * scheduler.init_noise_sigma, timesteps=timesteps, **changes)


def test_guidance_of_scale_one_is_the_prompts_own_prediction():
    noise_uncond, noise_text = torch.randn(2, 2, 4, 8, 8)
    torch.testing.assert_close(guide(noise_uncond, noise_text, 1.0), noise_text)
    torch.testing.assert_close(guide(noise_uncond, noise_text, 0.0), noise_uncond)


def test_guidance_adds_the_difference_of_the_predictions():
    noise_uncond, noise_text = torch.randn(2, 2, 4, 8, 8)
    step = guide(noise_uncond, noise_text, 5.0) - guide(noise_uncond, noise_text, 4.0)
    torch.testing.assert_close(step, noise_text - noise_uncond, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guidance_rescale", [0.0, 0.3, 1.0])
def test_rescaling_equals_diffusers(guidance_rescale):
    guided, noise_text = 4 * torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    ours = rescale_guided(guided, noise_text, guidance_rescale)
    assert torch.equal(ours, rescale_noise_cfg(guided, noise_text, guidance_rescale=guidance_rescale))


def test_full_rescaling_gives_the_contrast_of_the_prompts_own_prediction():
    guided, noise_text = 4 * torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    rescaled = rescale_guided(guided, noise_text, 1.0)
    torch.testing.assert_close(rescaled.std(dim=(1, 2, 3)), noise_text.std(dim=(1, 2, 3)))


@torch.no_grad()
def test_hook_sees_every_timestep_and_replaces_the_latents(unet):
    scheduler = tiny_scheduler()
    inputs = start(scheduler)
    seen = []

    def zero(step, timestep, inputs):
        seen.append((step, int(timestep)))
        return replace(inputs, latents=torch.zeros_like(inputs.latents))

    latents = denoise(unet, scheduler, inputs, after_step=zero)
    assert seen == list(enumerate(scheduler.timesteps.tolist()))
    assert not latents.any()
    assert inputs.latents.any(), "the inputs belong to the caller"


@torch.no_grad()
def test_interrupted_loop_returns_the_latents_as_they_are(unet):
    scheduler = tiny_scheduler()
    inputs = start(scheduler, 5, generator=torch.Generator().manual_seed(1))
    trajectory = []

    def record(step, timestep, inputs):
        trajectory.append(inputs.latents)
        return replace(inputs, interrupted=step == 1)

    latents = denoise(unet, scheduler, inputs, after_step=record)
    assert len(trajectory) == 2
    assert latents is trajectory[1]


@torch.no_grad()
def test_progress_bar_wraps_the_timesteps(unet):
    scheduler = HeunDiscreteScheduler()
    inputs = start(scheduler, 3)
    wrapped = []
    denoise(unet, scheduler, inputs, progress_bar=lambda steps: wrapped.append(len(steps)) or steps)
    assert wrapped == [5], "Heun's method takes two steps for one, but for the last"


def test_step_gets_only_what_it_takes():
    offered = {"eta": 0.5, "generator": None}
    assert step_arguments(tiny_scheduler(), **offered) == {"generator": None}
    assert step_arguments(DDIMScheduler(), **offered) == offered
    assert step_arguments(PNDMScheduler(), **offered) == {}


def test_custom_timesteps_and_sigmas():
    assert set_timesteps(tiny_scheduler(), 50, timesteps=[900, 500, 100]).tolist() == [900, 500, 100]
    scheduler = EulerDiscreteScheduler()
    set_timesteps(scheduler, 50, sigmas=[10.0, 1.0, 0.0])
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([10.0, 1.0, 0.0]))


@pytest.mark.parametrize("custom", [{"timesteps": [900, 100]}, {"sigmas": [1.0, 0.1]}])
def test_scheduler_without_custom_timesteps_is_named(custom):
    with pytest.raises(ValueError, match="PNDMScheduler does not take custom"):
        set_timesteps(PNDMScheduler(), 50, **custom)


def test_scheduler_is_fitted_for_latents_as_diffusers_does_it(caplog):
    fitting = tiny_scheduler()
    assert fit_for_latents(fitting) is fitting
    assert not caplog.records
    scheduler = tiny_scheduler(clip_sample=True, steps_offset=0, trained_betas=[0.1, 0.2], num_train_timesteps=2)
    fitted = fit_for_latents(scheduler)
    assert (fitted.config.clip_sample, fitted.config.steps_offset) == (False, 1)
    assert fitted.config.trained_betas == [0.1, 0.2]
    assert scheduler.config.clip_sample, "the scheduler belongs to the caller"
    assert "clip_sample" in caplog.text


class Pointwise(nn.Module):
    """A network that looks at one latent at a time."""

    def __init__(self, in_channels: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(in_channels, 4, 1)
        self.sizes: set[tuple[int, ...]] = set()

    def forward(self, sample, timestep, **kwargs):
        self.sizes.add(tuple(sample.shape[-2:]))
        return (self.conv(sample).sin() + timestep / 1000,)


@torch.no_grad()
@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler])
@pytest.mark.parametrize("is_partly_known", [False, True])
@pytest.mark.parametrize("in_channels", [4, 9])
def test_windows_change_nothing_for_a_pointwise_network(scheduler_class, is_partly_known, in_channels):
    made, unet = [], Pointwise(in_channels)
    random = torch.Generator().manual_seed(0)
    latents, x_0, noise = torch.randn(3, 2, 4, 13, 22, generator=random)
    added = torch.randn(2, 5, 13, 22, generator=random) if in_channels == 9 else None
    mask = torch.zeros(2, 1, 13, 22)
    mask[..., 18:] = 1
    known = KnownRegion(x_0, noise, mask) if is_partly_known else None
    for window in (None, (8, 8)):
        scheduler = scheduler_class()
        scheduler.set_timesteps(4)
        timesteps = start_late(scheduler, 4, 1.0)
        inputs = DenoisingInputs(latents, timesteps, known=known, window=window, added_channels=added)
        made.append(denoise(unet, scheduler, inputs))
    torch.testing.assert_close(made[0], made[1], rtol=1e-4, atol=1e-4)
    assert unet.sizes == {(13, 22), (8, 8)}
    if is_partly_known:
        assert torch.equal(made[0][..., :18], x_0[..., :18])


@torch.no_grad()
def test_guidance_through_windows():
    """A network that looks at no prompt is guided nowhere."""
    made, latents = [], torch.randn(2, 4, 8, 20, generator=torch.Generator().manual_seed(0))
    guidance = {"encoder_hidden_states": torch.zeros(4, 16, 32), "guidance_scale": 3.0, "guidance_rescale": 0.5}
    for changes in ({}, guidance):
        scheduler = DDIMScheduler()
        inputs = DenoisingInputs(latents, set_timesteps(scheduler, 3), window=(8, 8), **changes)
        made.append(denoise(Pointwise(), scheduler, inputs))
    torch.testing.assert_close(made[0], made[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("strength", "number"), [(1.0, 5), (0.99, 4), (0.6, 3), (0.59, 2), (0.2, 1), (0.1, 0), (0.0, 0)]
)
@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, HeunDiscreteScheduler])
def test_a_late_start_takes_the_last_steps(scheduler_class, strength, number):
    scheduler = scheduler_class()
    everything = set_timesteps(scheduler, 5)
    taken = start_late(scheduler, 5, strength)
    expected = number if scheduler.order == 1 else max(2 * number - 1, 0)
    assert torch.equal(taken, everything[len(everything) - expected :])
    if scheduler.order == 2 and number > 0:
        assert scheduler.begin_index == len(everything) - expected
