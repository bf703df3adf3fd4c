from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import nn

from sd_pipeline.pipelines.denoising import DenoisingInputs, denoise, guide, rescale_guided
from sd_pipeline.pipelines.scheduler_use import fit_for_latents, set_timesteps, step_arguments
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
