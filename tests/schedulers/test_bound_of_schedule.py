"""The terms of a schedule, from a network's output, against the formulas they are made of and an exact likelihood."""

from __future__ import annotations

import pytest
import torch

from benchmarks.variational_bound import main
from sd_pipeline import SDDDPMScheduler
from sd_pipeline.schedulers import parameterisation as p
from sd_pipeline.schedulers import variational_bound as vb
from sd_pipeline.schedulers.bound_of_schedule import BoundOfSchedule
from sd_pipeline.schedulers.posterior import posterior_mean, posterior_variance, reverse_std, transition_beta

KINDS = ("epsilon", "sample", "v_prediction", "mean")
NUM_STEPS = 1000


def scheduler(**arguments) -> SDDDPMScheduler:
    return SDDDPMScheduler(**{"clip_sample": False, "variance_type": "fixed_large", **arguments})


def batch(timesteps: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(timesteps), 2, 4, 4)
    levels = torch.randint(0, 256, shape, generator=generator)
    x_0 = 2 * levels.double() / 255 - 1
    noise = torch.randn(shape, dtype=torch.float64, generator=generator)
    return x_0, noise, torch.tensor(timesteps)


def said(kind: str, schedule: SDDDPMScheduler, x_0: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Give the output of a network of this kind that believes in some x_0."""
    a, a_prev = schedule.alpha_bar(t, x_t), schedule.alpha_bar(t - 1, x_t, first=-1)
    return {
        "epsilon": p.epsilon_from_x_0(x_0, x_t, a),
        "sample": x_0,
        "v_prediction": p.velocity_from_x_0(x_0, x_t, a),
        "mean": p.mean_from_x_0(x_0, x_t, a, a_prev),
    }[kind]


@pytest.mark.parametrize("decoder", ["gaussian", "discretised"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_all_parameterisations_have_the_same_terms(variance_type, decoder):
    x_0, noise, t = batch([0, 1, 2, 77, 500, 999])
    guess = x_0 + 0.1
    terms = {}
    for kind in KINDS:
        bound = BoundOfSchedule(scheduler(prediction_type=kind, variance_type=variance_type), decoder)
        schedule = bound.scheduler
        x_t = schedule.add_noise(x_0, noise, t)
        terms[kind] = bound.term(said(kind, schedule, guess, x_t, t), x_0, x_t, t)
    for kind in KINDS:
        torch.testing.assert_close(terms[kind], terms["sample"], atol=1e-9, rtol=1e-7)


def test_terms_are_those_of_the_formulas():
    bound = BoundOfSchedule(scheduler(variance_type="fixed_small"), "discretised")
    x_0, noise, t = batch([0, 1, 500])
    x_t = bound.scheduler.add_noise(x_0, noise, t)
    output = noise + 0.3
    found = bound.term(output, x_0, x_t, t)
    a = bound.scheduler.alphas_cumprod
    mean = p.mean_from_epsilon(output[:1], x_t[:1], a[0], a.new_ones(()))
    decoded = vb.discretised_gaussian_nll(x_0[:1], mean, posterior_variance(a[1], a[0]).log())
    assert float(found[0]) == pytest.approx(float(decoded.sum()), rel=1e-6)
    for row, step in ((1, 1), (2, 500)):
        variance = posterior_variance(a[step], a[step - 1])
        weight = vb.epsilon_weight(variance, a[step], a[step - 1])
        assert float(found[row]) == pytest.approx(float(weight * 0.3**2 * 32), rel=1e-6)
    torch.testing.assert_close(bound.prior(x_0), vb.prior_term(x_0, a[-1]).sum((1, 2, 3)))


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range", "learned"])
def test_moments_are_those_of_the_sampler(variance_type):
    schedule = scheduler(prediction_type="v_prediction", variance_type=variance_type)
    x_0, noise, t = batch([999, 400, 3, 1])
    x_t = schedule.add_noise(x_0, noise, t)
    output = schedule.get_velocity(x_0 * 0.9, noise, t)
    if variance_type.startswith("learned"):
        output = torch.cat([output, torch.rand(output.shape, generator=torch.Generator().manual_seed(1)) * 0.01], 1)
    mean, log_variance = schedule.reverse_moments(output, x_t, t)
    for row, step in enumerate(t.tolist()):
        a, a_prev = schedule.alphas_cumprod[step].double(), schedule.alphas_cumprod[step - 1].double()
        _, predicted = schedule.split_output(output[row : row + 1], x_t[row : row + 1])
        std = reverse_std(variance_type, a, a_prev, predicted)
        found = torch.exp(0.5 * log_variance[row : row + 1])
        torch.testing.assert_close(found, std.expand_as(found), atol=1e-9, rtol=1e-6)
        x_start = schedule.predict_original_sample(output[row : row + 1, :2], x_t[row : row + 1], step)
        expected = posterior_mean(x_start, x_t[row : row + 1], a, a_prev)
        torch.testing.assert_close(mean[row : row + 1], expected, atol=1e-6, rtol=1e-6)


def test_the_learned_range_ends_at_both_fixed_variances():
    x_0, noise, t = batch([0, 1, 300, 999])
    terms = {}
    for kind, number in (("fixed_small", -1.0), ("fixed_large", 1.0)):
        learned = scheduler(variance_type="learned_range")
        x_t = learned.add_noise(x_0, noise, t)
        output = torch.cat([noise + 0.1, torch.full_like(noise, number)], dim=1)
        terms[kind] = BoundOfSchedule(learned, "gaussian").term(output, x_0, x_t, t)
        fixed = BoundOfSchedule(scheduler(variance_type=kind), "gaussian").term(noise + 0.1, x_0, x_t, t)
        torch.testing.assert_close(terms[kind], fixed, atol=1e-6, rtol=1e-6)


def test_the_part_of_the_mean_leaves_out_the_constant():
    bound = BoundOfSchedule(scheduler(variance_type="fixed_large"), "gaussian")
    schedule = bound.scheduler
    x_0, noise, t = batch([1, 300, 999])
    x_t = schedule.add_noise(x_0, noise, t)
    a, a_prev = schedule.alpha_bar(t, x_t), schedule.alpha_bar(t - 1, x_t)
    constant = vb.variance_term(transition_beta(a, a_prev), a, a_prev).flatten() * 32
    whole, part = (of(noise + 0.2, x_0, x_t, t) for of in (bound.term, bound.mean_term))
    torch.testing.assert_close(part + constant, whole, atol=1e-7, rtol=1e-6)


def test_nothing_is_infinite_at_zero_terminal_snr_or_in_the_gradients():
    schedule = scheduler(prediction_type="v_prediction", variance_type="learned_range", rescale_betas_zero_snr=True)
    x_0, noise, t = batch([0, 1, 998, 999])
    x_t = schedule.add_noise(x_0.float(), noise.float(), t)
    output = torch.zeros(4, 4, 4, 4, requires_grad=True)
    for decoder in ("gaussian", "discretised"):
        terms = BoundOfSchedule(schedule, decoder).term(output, x_0.float(), x_t, t)
        (gradient,) = torch.autograd.grad(terms.sum(), output)
        assert torch.isfinite(terms).all()
        assert torch.isfinite(gradient).all()
    assert (BoundOfSchedule(schedule, "gaussian").prior(x_0) == 0).all()


def test_terms_of_an_independent_implementation(capsys):
    """Formulas of improved-diffusion in NumPy, on the same network and noise, to six digits."""
    assert main() == 0
    assert "learned_range" in capsys.readouterr().out
