from __future__ import annotations

import pytest
import torch

from sd_pipeline import SDDDPMScheduler
from sd_pipeline.schedulers import parameterisation as to

KINDS = ["epsilon", "sample", "v_prediction", "mean"]


@pytest.fixture
def draws() -> tuple[torch.Tensor, torch.Tensor]:
    x_0, epsilon = torch.randn(2, 16, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x_0, epsilon


def test_conversions_agree_and_round_trip(draws: tuple[torch.Tensor, torch.Tensor]) -> None:
    x_0, epsilon = draws
    a = torch.linspace(0.999, 0.01, 16, dtype=torch.float64).reshape(-1, 1, 1, 1)
    previous = (a + 1) / 2
    x_t = to.x_t_from(x_0, epsilon, a)
    velocity = to.velocity_from(x_0, epsilon, a)
    mean = to.mean_from_x_0(x_0, x_t, a, previous)
    for found in (
        to.x_0_from_epsilon(epsilon, x_t, a),
        to.x_0_from_velocity(velocity, x_t, a),
        to.x_0_from_mean(mean, x_t, a, previous),
    ):
        torch.testing.assert_close(found, x_0, atol=1e-11, rtol=0)
    for found in (to.epsilon_from_x_0(x_0, x_t, a), to.epsilon_from_velocity(velocity, x_t, a)):
        torch.testing.assert_close(found, epsilon, atol=1e-11, rtol=0)
    torch.testing.assert_close(to.velocity_from_x_0(x_0, x_t, a), velocity, atol=1e-11, rtol=0)
    torch.testing.assert_close(to.mean_from_epsilon(epsilon, x_t, a, previous), mean, atol=1e-11, rtol=0)


def test_velocity_is_the_derivative_along_the_circle(draws: tuple[torch.Tensor, torch.Tensor]) -> None:
    """v = d x_t / d angle, where sqrt(alpha_bar) = cos(angle) (Salimans and Ho 2022, appendix D)."""
    x_0, epsilon = draws
    angle = torch.tensor(0.6, dtype=torch.float64)
    x_t, derivative = torch.func.jvp(
        lambda phi: phi.cos() * x_0 + phi.sin() * epsilon, (angle,), (torch.ones_like(angle),)
    )
    alpha_bar = angle.cos() ** 2
    torch.testing.assert_close(to.velocity_from(x_0, epsilon, alpha_bar), derivative)
    torch.testing.assert_close(to.x_t_from(x_0, epsilon, alpha_bar), x_t)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_a_training_target_leads_back_to_x_0_and_epsilon(
    kind: str, zero_snr: bool, draws: tuple[torch.Tensor, torch.Tensor]
) -> None:
    scheduler = SDDDPMScheduler(prediction_type=kind, rescale_betas_zero_snr=zero_snr)
    x_0, epsilon = draws
    timesteps = torch.linspace(0, 998, 16).long()
    x_t = scheduler.add_noise(x_0, epsilon, timesteps)
    target = scheduler.training_target(x_0, epsilon, timesteps)
    assert target.shape == x_0.shape
    torch.testing.assert_close(scheduler.predict_original_sample(target, x_t, timesteps), x_0, atol=1e-8, rtol=0)
    torch.testing.assert_close(scheduler.predict_epsilon(target, x_t, timesteps), epsilon, atol=1e-8, rtol=0)
    # One timestep for all gives the same as one a sample.
    one = scheduler.training_target(x_0[:1].float(), epsilon[:1].float(), 700)
    many = scheduler.training_target(x_0[:1].float(), epsilon[:1].float(), torch.tensor([700]))
    torch.testing.assert_close(one, many)


def test_training_targets_are_the_named_quantities(draws: tuple[torch.Tensor, torch.Tensor]) -> None:
    x_0, epsilon = draws
    timesteps = torch.arange(16) * 60
    assert SDDDPMScheduler().training_target(x_0, epsilon, timesteps) is epsilon
    assert SDDDPMScheduler(prediction_type="sample").training_target(x_0, epsilon, timesteps) is x_0
    scheduler = SDDDPMScheduler(prediction_type="mean")
    target = scheduler.training_target(x_0, epsilon, timesteps)
    torch.testing.assert_close(target[0], x_0[0], atol=1e-12, rtol=0)  # The posterior mean at t = 0 is x_0.
    scheduler.set_timesteps(10)  # What sampling visits does not change what is learned.
    assert torch.equal(scheduler.training_target(x_0, epsilon, timesteps), target)
    a, t = scheduler.alphas_cumprod.double(), 300
    x_t = scheduler.add_noise(x_0, epsilon, timesteps)[5]
    wanted = to.mean_from_epsilon(epsilon[5], x_t, a[t], a[t - 1])
    torch.testing.assert_close(target[5], wanted, atol=1e-6, rtol=0)


def test_at_zero_terminal_snr_each_parameterisation_says_what_it_can() -> None:
    zero, previous = torch.zeros(()), torch.tensor(0.01)
    x_0, epsilon = torch.randn(2, 100, generator=torch.Generator().manual_seed(1))
    x_t = to.x_t_from(x_0, epsilon, zero)
    assert torch.equal(x_t, epsilon)
    assert torch.equal(to.x_0_from_epsilon(epsilon, x_t, zero), torch.zeros(100))
    assert torch.equal(to.x_0_from_epsilon(0.9 * epsilon, x_t, zero), torch.zeros(100))  # Nor an inexact guess.
    assert torch.equal(to.x_0_from_velocity(to.velocity_from(x_0, epsilon, zero), x_t, zero), x_0)
    mean = to.mean_from_x_0(x_0, x_t, zero, previous)
    torch.testing.assert_close(to.x_0_from_mean(mean, x_t, zero, previous), x_0)
