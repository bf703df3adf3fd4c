"""What the scheduler must do by theory: the forward process by sampling, the reverse step by Bayes' rule."""

from __future__ import annotations

import itertools

import pytest
import torch

from sd_pipeline import SDDDPMScheduler
from sd_pipeline.schedulers.parameterisation import mean_from_epsilon
from tests.schedulers.toy_network import toy_network


def standard_normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("t", [0, 100, 500, 999])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_the_forward_process_has_the_moments_of_eq_15(t: int, schedule: str) -> None:
    scheduler = SDDDPMScheduler(beta_schedule=schedule)
    num_samples, value = 200_000, 0.8
    noise = standard_normal(num_samples, 1, seed=t)
    x_t = scheduler.add_noise(torch.full_like(noise, value), noise, torch.full((num_samples,), t)).double()
    alpha_bar = torch.prod(1 - scheduler.betas[: t + 1].double())
    assert x_t.mean().item() == pytest.approx((alpha_bar.sqrt() * value).item(), abs=5 / num_samples**0.5)
    assert x_t.var().item() == pytest.approx((1 - alpha_bar).item(), rel=5 * (2 / num_samples) ** 0.5 + 1e-3)


def test_steps_of_eq_13_one_by_one_lead_where_eq_15_jumps() -> None:
    scheduler = SDDDPMScheduler(num_train_timesteps=50, beta_start=0.01, beta_end=0.2)
    num_samples, value = 100_000, 1.5
    generator = torch.Generator().manual_seed(0)
    x = torch.full((num_samples,), value)
    for beta in scheduler.betas:
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(num_samples, generator=generator)
    alpha_bar = scheduler.alphas_cumprod[-1]
    assert x.mean().item() == pytest.approx((alpha_bar.sqrt() * value).item(), abs=5 / num_samples**0.5)
    assert x.var().item() == pytest.approx((1 - alpha_bar).item(), rel=0.03)


@pytest.mark.parametrize("num_inference_steps", [1, 4, 10, 50, 1000])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_step_with_the_true_x_0_is_the_bayes_posterior(num_inference_steps: int, spacing: str, schedule: str) -> None:
    scheduler = SDDDPMScheduler(
        prediction_type="sample", clip_sample=False, timestep_spacing=spacing, beta_schedule=schedule
    )
    scheduler.set_timesteps(num_inference_steps)
    timesteps = [*scheduler.timesteps.tolist(), -1]
    a = torch.cat([scheduler.alphas_cumprod.double(), torch.ones(1, dtype=torch.float64)])  # a[-1] = 1: the data.
    x_0, x_t, z = standard_normal(3, 1, 1, 8, 8, dtype=torch.float64)
    for t, s in itertools.islice(itertools.pairwise(timesteps), 0, None, 7):
        slope, spread = (a[t] / a[s]).sqrt(), 1 - a[t] / a[s]
        if s == -1:
            mean, variance = x_0, torch.zeros(())
        else:
            variance = 1 / (1 / (1 - a[s]) + slope**2 / spread)
            mean = variance * (a[s].sqrt() * x_0 / (1 - a[s]) + slope * x_t / spread)
        z = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(t))
        step = scheduler.step(x_0.float(), t, x_t.float(), generator=torch.Generator().manual_seed(t))
        # The coefficients are float32, as in diffusers: 1 - alpha loses digits where a step adds little noise.
        tolerance = 1e-6 + 4e-7 / (1 - a[t]).item()
        found = step.prev_sample.double() - (variance.sqrt() * z if t > 0 else 0)
        torch.testing.assert_close(found, mean, atol=tolerance, rtol=0)
        assert torch.equal(step.pred_original_sample, x_0.float())
        mean_again, variance_again = scheduler.posterior_mean_variance(x_0, x_t, t, s)
        torch.testing.assert_close(mean_again, mean, atol=tolerance, rtol=0)
        assert variance_again.item() == pytest.approx(variance.item(), rel=1e-3, abs=1e-9)


def test_a_strided_step_is_not_the_adjacent_one() -> None:
    """Taking alpha_bar at t - 1 for a step that goes to t - 100 is the mistake that this guards against."""
    scheduler = SDDDPMScheduler(prediction_type="sample", clip_sample=False)
    x_0, x_t = standard_normal(2, 1, 1, 8, 8)
    adjacent = scheduler.posterior_mean_variance(x_0, x_t, 500, 499)[0]
    scheduler.set_timesteps(10)
    z = standard_normal(1, 1, 8, 8, seed=1)
    strided = scheduler.step(x_0, 500, x_t, generator=torch.Generator().manual_seed(1)).prev_sample
    mean, variance = scheduler.posterior_mean_variance(x_0, x_t, 500, 400)
    torch.testing.assert_close(strided, mean + variance.sqrt() * z)
    assert (mean - adjacent).abs().max() > 0.3


def test_the_whole_reverse_process_with_the_true_epsilon_ends_at_the_data() -> None:
    x_0 = standard_normal(1, 1, 8, 8)
    for num_inference_steps in (1, 5, 50):
        scheduler = SDDDPMScheduler(clip_sample=False)
        scheduler.set_timesteps(num_inference_steps)
        sample = standard_normal(1, 1, 8, 8, seed=1)
        for t in scheduler.timesteps:
            a = scheduler.alphas_cumprod[t]
            epsilon = (sample - a.sqrt() * x_0) / (1 - a).sqrt()
            sample = scheduler.step(epsilon, t, sample, generator=torch.Generator().manual_seed(int(t))).prev_sample
        torch.testing.assert_close(sample, x_0, atol=1e-4, rtol=0)


def test_eq_22_is_one_step_with_the_report_s_variance() -> None:
    """x_{t-1} = (x_t - beta_t / sqrt(1 - alpha_bar_t) epsilon) / sqrt(alpha_t) + sigma_t z, sigma_t^2 = beta_t."""
    scheduler = SDDDPMScheduler(variance_type="fixed_large", clip_sample=False)
    x_t, epsilon = standard_normal(2, 1, 1, 8, 8)
    for t in (1, 100, 500, 999):
        beta, alpha = scheduler.betas[t].double(), scheduler.alphas[t].double()
        z = standard_normal(1, 1, 8, 8, seed=t)
        alpha_bar = scheduler.alphas_cumprod[t].double()
        wanted = (x_t - beta / (1 - alpha_bar).sqrt() * epsilon) / alpha.sqrt() + beta.sqrt() * z
        step = scheduler.step(epsilon, t, x_t, generator=torch.Generator().manual_seed(t))
        torch.testing.assert_close(step.prev_sample, wanted.float(), atol=3e-4, rtol=0)


@pytest.mark.parametrize("num_inference_steps", [1, 10, 37, 200])
@pytest.mark.parametrize("clip_sample", [False, True])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
def test_predicting_the_mean_samples_like_predicting_epsilon(
    num_inference_steps: int, clip_sample: bool, variance_type: str
) -> None:
    config = {"clip_sample": clip_sample, "variance_type": variance_type}
    samples = []
    for prediction_type in ("epsilon", "mean"):
        scheduler = SDDDPMScheduler(prediction_type=prediction_type, **config)
        scheduler.set_timesteps(num_inference_steps)
        generator = torch.Generator().manual_seed(0)
        sample = torch.randn(1, 1, 8, 8, generator=generator).double()
        for t in scheduler.timesteps:
            output = toy_network(sample, t, num_outputs=2 if variance_type == "learned_range" else 1)
            if prediction_type == "mean":
                alpha_bar = scheduler.alphas_cumprod[t]
                previous = scheduler.alphas_cumprod[t - 1] if t > 0 else torch.ones(())
                output[:, :1] = mean_from_epsilon(output[:, :1], sample, alpha_bar.double(), previous.double())
            sample = scheduler.step(output, t, sample, generator=generator).prev_sample
        samples.append(sample)
    # Relative to the size of the samples: unclipped, a toy network that is no denoiser lets them grow.
    torch.testing.assert_close(samples[0], samples[1], atol=2e-3 * samples[0].abs().max().item(), rtol=0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction", "mean"])
@pytest.mark.parametrize(
    "variance_type", ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]
)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
def test_zero_terminal_snr_is_exact_and_never_nan(prediction_type: str, variance_type: str, schedule: str) -> None:
    for clip_sample in (False, True):
        scheduler = SDDDPMScheduler(
            prediction_type=prediction_type,
            variance_type=variance_type,
            beta_schedule=schedule,
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=clip_sample,
        )
        assert scheduler.alphas_cumprod[-1] == 0
        noise = standard_normal(1, 1, 4, 4)
        x_0 = standard_normal(1, 1, 4, 4, seed=1)
        last = torch.tensor([999])
        assert torch.equal(scheduler.add_noise(x_0, noise, last), noise)
        assert scheduler.training_target(x_0, noise, last).isfinite().all()
        scheduler.set_timesteps(10)
        sample, generator = noise, torch.Generator().manual_seed(0)
        for t in scheduler.timesteps:
            output = toy_network(sample, t, num_outputs=2 if variance_type.startswith("learned") else 1)
            sample, prediction = scheduler.step(output, t, sample, generator=generator, return_dict=False)
            assert prediction.isfinite().all()
            assert sample.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_precision(dtype: torch.dtype) -> None:
    scheduler, exact = SDDDPMScheduler(prediction_type="v_prediction"), SDDDPMScheduler(prediction_type="v_prediction")
    x_0, noise = standard_normal(2, 2, 3, 4, 4)
    timesteps = torch.tensor([3, 700])
    for method in ("add_noise", "get_velocity", "training_target", "predict_original_sample", "predict_epsilon"):
        found = getattr(scheduler, method)(x_0.to(dtype), noise.to(dtype), timesteps)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), getattr(exact, method)(x_0, noise, timesteps), atol=0.03, rtol=0.01)
    step = scheduler.step(noise.to(dtype), 700, x_0.to(dtype))
    assert step.prev_sample.dtype == step.pred_original_sample.dtype == dtype


def test_a_list_of_generators_makes_samples_independent_of_their_batch() -> None:
    scheduler = SDDDPMScheduler()
    scheduler.set_timesteps(10)
    x_t, output = standard_normal(2, 3, 1, 4, 4)
    together = scheduler.step(
        output, 500, x_t, generator=[torch.Generator().manual_seed(seed) for seed in range(3)]
    ).prev_sample
    for index in range(3):
        generator = torch.Generator().manual_seed(index)
        alone = scheduler.step(output[index : index + 1], 500, x_t[index : index + 1], generator=generator).prev_sample
        assert torch.equal(together[index : index + 1], alone)
