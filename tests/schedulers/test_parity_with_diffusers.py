"""Our scheduler beside diffusers' DDPMScheduler: the same numbers, whatever the settings."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from diffusers import DDPMScheduler

from sd_pipeline import SDDDPMScheduler
from tests.schedulers.toy_network import toy_network

TOLERANCE = {"atol": 1e-6, "rtol": 1e-6}
PREDICTION_TYPES = ["epsilon", "sample", "v_prediction"]
SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"]
# fixed_large_log is NaN in diffusers 0.42; it has a test of its own.
VARIANCE_TYPES = ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"]
SPACINGS = ["linspace", "leading", "trailing"]


def sample(scheduler: SDDDPMScheduler | DDPMScheduler, shape: tuple[int, ...] = (2, 3, 4, 4)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(shape, generator=generator) * scheduler.init_noise_sigma
    learned = scheduler.config.variance_type in ("learned", "learned_range")
    for t in scheduler.timesteps:
        output = toy_network(scheduler.scale_model_input(latents, t), t, num_outputs=2 if learned else 1)
        if scheduler.config.variance_type == "learned":
            output[:, shape[1] :] = output[:, shape[1] :].abs()
        latents = scheduler.step(output, t, latents, generator=generator).prev_sample
    return latents


def assert_same_samples(num_inference_steps: int | None = None, **config: object) -> None:
    ours, theirs = SDDDPMScheduler(**config), DDPMScheduler(**config)
    if num_inference_steps is not None:
        ours.set_timesteps(num_inference_steps)
        theirs.set_timesteps(num_inference_steps)
    samples = sample(ours), sample(theirs)
    assert samples[0].isfinite().all()
    torch.testing.assert_close(*samples, **TOLERANCE)


@pytest.mark.parametrize(
    ("prediction_type", "variance_type"), list(itertools.product(PREDICTION_TYPES, VARIANCE_TYPES))
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sampling_with_every_prediction_variance_and_schedule(
    prediction_type: str, variance_type: str, schedule: str
) -> None:
    # With a learned range diffusers adds noise of a variance without meaning in a step to the data from above 0.
    other = "linspace" if variance_type == "learned_range" else "trailing"
    for num_inference_steps, spacing in ((1, "leading"), (7, other), (20, "linspace")):
        assert_same_samples(
            num_inference_steps,
            prediction_type=prediction_type,
            variance_type=variance_type,
            beta_schedule=schedule,
            timestep_spacing=spacing,
        )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_inference_steps", [1, 2, 10, 33, 50])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_sampling_with_every_spacing_and_several_step_counts(
    spacing: str, num_inference_steps: int, prediction_type: str
) -> None:
    assert_same_samples(num_inference_steps, timestep_spacing=spacing, prediction_type=prediction_type)


@pytest.mark.parametrize(
    "config",
    [
        {"clip_sample": False, "prediction_type": "v_prediction"},
        {"clip_sample": False, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
        {"clip_sample_range": 0.4},
        {"thresholding": True, "sample_max_value": 2.0},
        {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 1.5},
        {"thresholding": True, "sample_max_value": 0.5, "prediction_type": "v_prediction"},
        {"steps_offset": 1},
        {"steps_offset": 3, "variance_type": "fixed_large"},
        {"trained_betas": [0.01 + 0.00002 * step for step in range(1000)]},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"rescale_betas_zero_snr": True, "prediction_type": "sample", "timestep_spacing": "trailing"},
    ],
    ids=lambda config: ",".join(key for key in config),
)
def test_sampling_with_every_other_key(config: dict) -> None:
    assert_same_samples(15, **config)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_sampling_through_every_trained_timestep(prediction_type: str) -> None:
    assert_same_samples(prediction_type=prediction_type, num_train_timesteps=100, beta_end=0.2)
    assert_same_samples(100, prediction_type=prediction_type, num_train_timesteps=100, beta_end=0.2)


def test_custom_timesteps() -> None:
    ours, theirs = SDDDPMScheduler(), DDPMScheduler()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(timesteps=[999, 850, 736, 645, 545, 455, 343, 233, 124, 24])
    torch.testing.assert_close(sample(ours), sample(theirs), **TOLERANCE)


def test_fixed_large_log_is_fixed_large() -> None:
    ours, theirs = SDDDPMScheduler(variance_type="fixed_large_log"), DDPMScheduler(variance_type="fixed_large")
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(20)
    torch.testing.assert_close(sample(ours), sample(theirs), **TOLERANCE)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("rescale", [False, True])
def test_one_step_also_gives_the_same_x_0_and_the_same_tuple(prediction_type: str, rescale: bool) -> None:
    config = {"prediction_type": prediction_type, "rescale_betas_zero_snr": rescale}
    ours, theirs = SDDDPMScheduler(**config), DDPMScheduler(**config)
    x_t, output = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for t in (0, 1, 2, 500, 998, torch.tensor(250)):
        results = []
        for scheduler in (ours, theirs):
            step = scheduler.step(output, t, x_t, generator=torch.Generator().manual_seed(2))
            pair = scheduler.step(output, t, x_t, generator=torch.Generator().manual_seed(2), return_dict=False)
            assert torch.equal(pair[0], step.prev_sample)
            assert torch.equal(pair[1], step.pred_original_sample)
            results.append(pair)
        torch.testing.assert_close(results[0], results[1], **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_and_velocity(dtype: torch.dtype) -> None:
    ours, theirs = SDDDPMScheduler(), DDPMScheduler()
    x_0, noise = torch.randn(2, 8, 3, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(3))
    timesteps = torch.tensor([0, 1, 10, 100, 500, 900, 998, 999])
    for method in ("add_noise", "get_velocity"):
        found = getattr(ours, method)(x_0, noise, timesteps)
        assert found.dtype == dtype
        torch.testing.assert_close(found, getattr(theirs, method)(x_0, noise, timesteps), **TOLERANCE)


def test_the_constructors_have_the_same_keys_and_defaults() -> None:
    ours, theirs = (inspect.signature(cls).parameters for cls in (SDDDPMScheduler, DDPMScheduler))
    assert {name: p.default for name, p in ours.items()} == {name: p.default for name, p in theirs.items()}
    assert list(ours) == list(theirs)


def test_the_public_interface_is_there() -> None:
    ours, theirs = SDDDPMScheduler(), DDPMScheduler()
    assert len(ours) == len(theirs) == 1000
    assert ours.order == theirs.order
    assert ours.init_noise_sigma == theirs.init_noise_sigma
    for name in ("betas", "alphas", "alphas_cumprod", "timesteps"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for name, method in inspect.getmembers(DDPMScheduler, inspect.isfunction):
        if not name.startswith("_"):
            wanted = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(SDDDPMScheduler, name)).parameters) == wanted, name
