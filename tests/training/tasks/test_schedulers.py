"""The scheduler of training, and the one that is published with its forward process."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from sd_pipeline import SDDDPMScheduler
from tests.training.configurations import tiny_train_config
from training.config import ConfigError, TrainConfig
from training.tasks.schedulers import build_scheduler, recommended_scheduler


def schedulers(**values) -> tuple[SDDDPMScheduler, object]:
    config: TrainConfig = tiny_train_config(**values)
    training = build_scheduler(config, in_pixel_space=False)
    return training, recommended_scheduler(config, training)


def test_x_0_is_clipped_in_pixel_space_only():
    config = tiny_train_config()
    assert build_scheduler(config, in_pixel_space=True).config.clip_sample
    assert not build_scheduler(config, in_pixel_space=False).config.clip_sample
    asked = tiny_train_config(diffusion__scheduler={"clip_sample": True})
    assert build_scheduler(asked, in_pixel_space=False).config.clip_sample


@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler, SDDDPMScheduler])
def test_the_published_scheduler_has_the_forward_process_of_training(kind):
    given = {"beta_schedule": "scaled_linear", "beta_end": 0.012, "prediction_type": "v_prediction"}
    training, published = schedulers(evaluation__scheduler=kind.__name__, diffusion__scheduler=given)
    assert type(published) is kind
    torch.testing.assert_close(published.alphas_cumprod, training.alphas_cumprod)
    assert published.config.prediction_type == "v_prediction"


def test_the_published_scheduler_is_the_one_that_was_asked_for():
    """Keys at their default in training are kept by `from_config` only if it does not know that they were."""
    asked = {"timestep_spacing": "trailing", "set_alpha_to_one": False, "rescale_betas_zero_snr": True}
    _, published = schedulers(evaluation__scheduler_config=asked)
    assert {key: published.config[key] for key in asked} == asked
    assert (published.config.clip_sample, published.config.steps_offset) == (False, 1)
    _, published = schedulers(evaluation__scheduler_config={"steps_offset": 0})
    assert published.config.steps_offset == 0


def test_a_learned_variance_is_published_with_a_last_step_from_timestep_0():
    """There diffusers adds no noise; from above 0 it would add some of a variance without meaning."""
    learned = {"objective": "hybrid", "scheduler": {"variance_type": "learned_range"}}
    values = {f"diffusion__{key}": value for key, value in learned.items()}
    _, published = schedulers(**values)
    assert (type(published), published.config.timestep_spacing) == (DDPMScheduler, "linspace")
    for num_inference_steps in (2, 25, 100):
        published.set_timesteps(num_inference_steps)
        assert published.timesteps[-1] == 0
    with pytest.raises(ConfigError, match="timestep_spacing = 'trailing': must be linspace with a learned variance"):
        schedulers(**values, evaluation__scheduler_config={"timestep_spacing": "trailing"})
