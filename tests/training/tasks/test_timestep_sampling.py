"""Timesteps follow the density that is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from tests.training.configurations import tiny_train_config
from training.tasks.timestep_sampling import draw_timesteps, logit_normal_quantile, mean_logits

MANY = range(20_000)


def drawn(**values) -> torch.Tensor:
    settings = tiny_train_config(**{f"diffusion__{key}": value for key, value in values.items()}).diffusion
    return draw_timesteps(settings, 3, MANY, 1000)


def test_the_quantile_function_is_that_of_the_distribution():
    probability = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    expected = expit(stats.norm(0.5, 0.8).ppf(probability.numpy()))
    np.testing.assert_allclose(logit_normal_quantile(probability, 0.5, 0.8).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("sampling", ["uniform", "stratified"])
def test_logits_of_timesteps_are_normal(sampling):
    timesteps = drawn(timestep_sampling=sampling, weighting_scheme="logit_normal", logit_mean=0.8, logit_std=0.7)
    assert timesteps.dtype == torch.int64
    middle = (timesteps.numpy() + 0.5) / 1000
    logits = np.log(middle / (1 - middle))
    assert abs(logits.mean() - 0.8) < 0.02
    assert abs(logits.std() - 0.7) < 0.02


@pytest.mark.parametrize("mean", [-50.0, 50.0])
def test_every_timestep_is_one_of_the_schedule(mean):
    timesteps = drawn(weighting_scheme="logit_normal", logit_mean=mean)
    assert set(timesteps.tolist()) == {0 if mean < 0 else 999}


def test_the_density_is_uniform_unless_asked_otherwise():
    assert stats.kstest((drawn().numpy() + 0.5) / 1000, "uniform").pvalue > 0.01


def test_the_mean_goes_from_its_start_to_its_place():
    values = {"logit_mean": 1.0, "logit_mean_start": 4.0, "logit_mean_start_samples": 100}
    config = tiny_train_config(
        diffusion__weighting_scheme="logit_normal", **{f"diffusion__{key}": value for key, value in values.items()}
    )
    means = mean_logits(config.diffusion, [0, 25, 50, 100, 100_000])
    torch.testing.assert_close(means, torch.tensor([4.0, 3.25, 2.5, 1.0, 1.0], dtype=torch.float64))


def test_a_timestep_depends_on_its_sample_alone():
    values = {"weighting_scheme": "logit_normal", "logit_mean_start": 4.0, "logit_mean_start_samples": 300}
    settings = tiny_train_config(**{f"diffusion__{key}": value for key, value in values.items()}).diffusion
    together = draw_timesteps(settings, 3, range(64), 1000)
    parts = [draw_timesteps(settings, 3, part, 1000) for part in (range(0, 64, 2), range(1, 64, 2))]
    assert torch.equal(together[0::2], parts[0])
    assert torch.equal(together[1::2], parts[1])
