"""Every documented refusal: the message names the key, the value and what is allowed, on one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sd_pipeline import SDDDPMScheduler

WRONG_ARGUMENTS = [
    ({"beta_schedule": "cosine"}, "beta_schedule='cosine' must be one of linear, scaled_linear, squaredcos_cap_v2"),
    ({"beta_schedule": None}, "beta_schedule=None must be one of linear"),
    ({"prediction_type": "velocity"}, "prediction_type='velocity' must be one of epsilon, sample, v_prediction, mean"),
    ({"prediction_type": None}, "prediction_type=None must be one of epsilon"),
    ({"prediction_type": ["epsilon"]}, "prediction_type=\\['epsilon'\\] must be one of epsilon"),
    ({"variance_type": "other"}, "variance_type='other' must be one of fixed_small, fixed_small_log, fixed_large"),
    ({"timestep_spacing": "karras"}, "timestep_spacing='karras' must be one of linspace, leading, trailing"),
    ({"num_train_timesteps": 0}, "num_train_timesteps=0 must be an integer of at least 1"),
    ({"num_train_timesteps": -5}, "num_train_timesteps=-5 must be an integer of at least 1"),
    ({"num_train_timesteps": 10.0}, "num_train_timesteps=10.0 must be an integer"),
    ({"num_train_timesteps": True}, "num_train_timesteps=True must be an integer"),
    ({"num_train_timesteps": "1000"}, "num_train_timesteps='1000' must be an integer"),
    ({"beta_start": 0.0}, "beta_start=0.0 must be a number greater than 0 and less than 1"),
    ({"beta_start": -0.1}, "beta_start=-0.1 must be a number greater than 0"),
    ({"beta_start": "1e-4"}, "beta_start='1e-4' must be a number"),
    ({"beta_end": 1.0}, "beta_end=1.0 must be a number greater than 0 and less than 1"),
    ({"beta_end": float("nan")}, "beta_end=nan must be a number"),
    ({"beta_end": None}, "beta_end=None must be a number"),
    ({"beta_start": 0.02, "beta_end": 0.01}, "beta_start=0.02 must be at most beta_end=0.01"),
    ({"clip_sample": "no"}, "clip_sample='no' must be true or false"),
    ({"thresholding": 1}, "thresholding=1 must be true or false"),
    ({"rescale_betas_zero_snr": "false"}, "rescale_betas_zero_snr='false' must be true or false"),
    ({"clip_sample_range": 0.0}, "clip_sample_range=0.0 must be a number greater than 0"),
    ({"sample_max_value": -1}, "sample_max_value=-1 must be a number greater than 0"),
    ({"dynamic_thresholding_ratio": 1.5}, "dynamic_thresholding_ratio=1.5 must be a number from 0 to 1"),
    ({"steps_offset": -1}, "steps_offset=-1 must be an integer of at least 0"),
    ({"steps_offset": 0.5}, "steps_offset=0.5 must be an integer of at least 0"),
    ({"num_train_timesteps": 1, "rescale_betas_zero_snr": True}, "needs num_train_timesteps of at least 2, got 1"),
    ({"trained_betas": "linear"}, "trained_betas is of type str; it must be a list of numbers or a NumPy array"),
    ({"trained_betas": torch.full((1000,), 0.01)}, "trained_betas is of type Tensor; it must be a list"),
    ({"trained_betas": [0.1, 0.2]}, r"trained_betas has shape \(2,\); it must hold num_train_timesteps=1000 numbers"),
    ({"num_train_timesteps": 2, "trained_betas": [[0.1], [0.2]]}, r"trained_betas has shape \(2, 1\)"),
    ({"num_train_timesteps": 2, "trained_betas": [0.1, "x"]}, "trained_betas holds something that is not a number"),
    ({"num_train_timesteps": 2, "trained_betas": [0.1, 1.5]}, r"trained_betas\[1\]=1.5 must be greater than 0"),
    ({"num_train_timesteps": 2, "trained_betas": [1.0, 0.1]}, r"trained_betas\[0\]=1.0 must be greater than 0"),
    ({"num_train_timesteps": 2, "trained_betas": [0.1, float("nan")]}, r"trained_betas\[1\]=nan must be"),
    ({"num_train_timesteps": 2, "trained_betas": np.array([0.0, 0.1])}, r"trained_betas\[0\]=0.0 must be"),
    ({"beta_end": 0.9}, "alphas_cumprod does not fall at timestep .*: the betas before it are too large"),
    ({"beta_start": 1e-9}, "does not fall at timestep 0 of 1000, where it is 1: its beta is too small for float32"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_ARGUMENTS, ids=[str(row[1])[:40] for row in WRONG_ARGUMENTS])
def test_the_constructor_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        SDDDPMScheduler(**arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(TypeError, match="beta_strat"):
        SDDDPMScheduler(beta_strat=0.1)


def test_a_wrong_choice_in_a_file_is_refused_too() -> None:
    with pytest.raises(ValueError, match="prediction_type='flow_prediction' must be one of"):
        SDDDPMScheduler.from_config({"prediction_type": "flow_prediction"})


def test_the_edges_are_allowed() -> None:
    SDDDPMScheduler(num_train_timesteps=1)
    SDDDPMScheduler(beta_start=0.01, beta_end=0.01)
    SDDDPMScheduler(2, trained_betas=(0.1, 1.0))
    SDDDPMScheduler(dynamic_thresholding_ratio=1, sample_max_value=2, clip_sample_range=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either num_inference_steps or timesteps"),
        ({"num_inference_steps": 5, "timesteps": [3, 2]}, "either num_inference_steps or timesteps"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be an integer from 1 to num_train_timesteps=1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001 must be an integer from 1"),
        ({"num_inference_steps": 2.5}, "num_inference_steps=2.5 must be an integer"),
        ({"timesteps": []}, "must be a list of integers with at least one element"),
        ({"timesteps": [9.0, 3.0]}, "must be a list of integers"),
        ({"timesteps": [1, 5]}, r"timesteps=\[1, 5\] must descend"),
        ({"timesteps": [5, 5]}, "must descend"),
        ({"timesteps": [1000, 5]}, r"timesteps=\[1000, 5\] must be from 0 to 999"),
        ({"timesteps": [5, -1]}, "must be from 0 to 999"),
    ],
)
def test_set_timesteps_refuses(arguments: dict, message: str) -> None:
    scheduler = SDDDPMScheduler()
    with pytest.raises(ValueError, match=message):
        scheduler.set_timesteps(**arguments)
    assert scheduler.num_inference_steps is None


def test_an_offset_past_the_end_is_refused() -> None:
    with pytest.raises(
        ValueError, match="steps_offset=1 would start at timestep 1000, past the last trained one, 999"
    ):
        SDDDPMScheduler(steps_offset=1).set_timesteps(1000)


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        (torch.tensor([0.5]), "timesteps have dtype torch.float32; they must be int64 or int32"),
        (torch.tensor([1000]), "timestep=1000 must be from 0 to 999"),
        (torch.tensor([-1]), "timestep=-1 must be from 0 to 999"),
        (1000, "timestep=1000 must be from 0 to 999"),
    ],
)
def test_timesteps_are_checked(timesteps: torch.Tensor | int, message: str) -> None:
    sample = torch.zeros(1, 1, 2, 2)
    scheduler = SDDDPMScheduler(prediction_type="v_prediction")
    for method in (
        scheduler.add_noise,
        scheduler.get_velocity,
        scheduler.training_target,
        scheduler.predict_original_sample,
        scheduler.predict_epsilon,
    ):
        with pytest.raises(ValueError, match=message):
            method(sample, sample, timesteps)


def test_step_refuses_a_timestep_outside_the_schedule_and_a_wrong_shape() -> None:
    sample = torch.zeros(1, 3, 2, 2)
    scheduler = SDDDPMScheduler()
    with pytest.raises(ValueError, match="timestep=1000 is not among those of set_timesteps, from 999 to 0"):
        scheduler.step(sample, 1000, sample)
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="timestep=950 is not among those of set_timesteps, from 900 to 0"):
        scheduler.step(sample, 950, sample)
    with pytest.raises(ValueError, match=r"model_output has shape \(1, 6, 2, 2\).*'fixed_small' needs \(1, 3, 2, 2\)"):
        scheduler.step(torch.zeros(1, 6, 2, 2), 900, sample)
    with pytest.raises(
        ValueError, match=r"model_output has shape \(1, 3, 2, 2\).*'learned_range' needs \(1, 6, 2, 2\)"
    ):
        SDDDPMScheduler(variance_type="learned_range").step(sample, 900, sample)


@pytest.mark.parametrize(
    ("variance_type", "spacing", "warns"),
    [("fixed_large", "trailing", True), ("fixed_large", "leading", False), ("fixed_small", "trailing", False)],
)
def test_noise_that_stays_in_the_result_is_announced(
    variance_type: str, spacing: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    SDDDPMScheduler(variance_type=variance_type, timestep_spacing=spacing).set_timesteps(20)
    assert ["standard deviation 0.17" in record.message for record in caplog.records] == [True] * warns
