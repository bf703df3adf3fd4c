from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler

from sd_pipeline.schedulers.noise_schedules import BETA_SCHEDULES, linear, rescale_zero_terminal_snr, squaredcos_cap_v2

DIFFUSERS_NAMES = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"]


@pytest.mark.parametrize("name", DIFFUSERS_NAMES)
@pytest.mark.parametrize("num_train_timesteps", [1, 2, 50, 1000])
def test_betas_equal_those_of_diffusers(name: str, num_train_timesteps: int) -> None:
    theirs = DDPMScheduler(num_train_timesteps, 0.00085, 0.012, beta_schedule=name).betas
    ours = BETA_SCHEDULES[name](num_train_timesteps, 0.00085, 0.012)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0)


def test_the_names_are_those_of_diffusers() -> None:
    assert list(BETA_SCHEDULES) == DIFFUSERS_NAMES


def test_linear_is_the_schedule_of_the_report() -> None:
    betas = linear(1000, 1e-4, 0.02)
    assert betas[0] == pytest.approx(1e-4)
    assert betas[-1] == pytest.approx(0.02)
    assert betas.diff().std() < 1e-8


def test_the_cosine_product_is_the_squared_cosine() -> None:
    alphas_cumprod = torch.cumprod(1 - squaredcos_cap_v2(1000).double(), dim=0)
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for t in (0, 250, 500, 900):
        wanted = math.cos(((t + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / start
        assert alphas_cumprod[t].item() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("name", DIFFUSERS_NAMES)
def test_zero_terminal_snr_ends_at_exactly_zero_and_keeps_the_start(name: str) -> None:
    betas = BETA_SCHEDULES[name](1000, 1e-4, 0.02)
    rescaled = rescale_zero_terminal_snr(betas)
    alphas_cumprod = torch.cumprod(1 - rescaled, dim=0)
    assert alphas_cumprod[-1] == 0
    assert (alphas_cumprod[:-1] > 0).all()
    assert (alphas_cumprod.diff() < 0).all()
    assert rescaled[0].item() == pytest.approx(betas[0].item(), abs=1e-6)
    theirs = DDPMScheduler(beta_schedule=name, rescale_betas_zero_snr=True)
    torch.testing.assert_close(rescaled, theirs.betas, atol=1e-6, rtol=0)


def test_zero_terminal_snr_shifts_and_scales_the_root_of_alpha_bar() -> None:
    betas = linear(100, 1e-3, 0.05)
    before = torch.cumprod(1 - betas, dim=0).sqrt()
    after = torch.cumprod(1 - rescale_zero_terminal_snr(betas), dim=0).sqrt()
    slope = (after[0] - after[-1]) / (before[0] - before[-1])
    torch.testing.assert_close(after, (before - before[-1]) * slope, atol=1e-5, rtol=0)
