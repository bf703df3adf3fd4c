from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from sd_pipeline import SDDDPMScheduler
from sd_pipeline.schedulers import parameterisation as to
from sd_pipeline.schedulers.signal_to_noise import min_snr_weights, snr

KINDS = ["epsilon", "sample", "v_prediction", "mean"]


def test_snr_equals_that_of_diffusers_and_falls() -> None:
    scheduler = SDDDPMScheduler()
    timesteps = torch.arange(1000)
    torch.testing.assert_close(scheduler.snr(timesteps), compute_snr(DDPMScheduler(), timesteps), atol=0, rtol=1e-5)
    assert (scheduler.snr(timesteps).diff() < 0).all()
    assert scheduler.snr(torch.tensor([-1])).item() == float("inf")
    assert scheduler.snr(timesteps.reshape(10, 100)).shape == (10, 100)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_weights_turn_every_error_into_the_capped_error_of_x_0(kind: str, gamma: float) -> None:
    """Two guesses of x_0 for one x_t differ by d; in every parameterisation w |difference|^2 = min(snr, gamma) d^2."""
    alphas_cumprod = SDDDPMScheduler().alphas_cumprod.double()
    x_t, x_0, guess = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (0, 1, 10, 300, 700, 999):
        a = alphas_cumprod[t]
        previous = alphas_cumprod[t - 1] if t else torch.ones_like(a)
        predict = {
            "sample": lambda x: x,
            "epsilon": lambda x, a=a: to.epsilon_from_x_0(x, x_t, a),
            "v_prediction": lambda x, a=a: to.velocity_from_x_0(x, x_t, a),
            "mean": lambda x, a=a, previous=previous: to.mean_from_x_0(x, x_t, a, previous),
        }[kind]
        ratio = snr(alphas_cumprod, torch.tensor(t))
        weight = min_snr_weights(ratio, gamma, kind, previous_snr=snr(alphas_cumprod, torch.tensor(t - 1)))
        wanted = min(ratio.item(), gamma) * (x_0 - guess).square()
        torch.testing.assert_close(weight * (predict(x_0) - predict(guess)).square(), wanted, atol=0, rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_weights_are_finite_at_every_timestep(kind: str, schedule: str, zero_snr: bool) -> None:
    scheduler = SDDDPMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=zero_snr)
    timesteps = torch.arange(1000)
    weights = min_snr_weights(scheduler.snr(timesteps), 5.0, kind, previous_snr=scheduler.snr(timesteps - 1))
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    if zero_snr:
        assert weights[-1] == (1.0 if kind == "epsilon" else 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.0, "prediction_type": "epsilon"}, "gamma=0.0 must be greater than 0"),
        ({"gamma": float("nan"), "prediction_type": "epsilon"}, "gamma=nan must be greater than 0"),
        ({"gamma": 5.0, "prediction_type": "noise"}, "prediction_type='noise' is not one of epsilon"),
        ({"gamma": 5.0, "prediction_type": "mean"}, "needs previous_snr"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        min_snr_weights(torch.ones(1), **arguments)
