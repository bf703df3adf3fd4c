"""The errors of two models: in one unit whatever they predict, and an interval that covers what it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from sd_pipeline import SDDDPMScheduler
from training.evaluation.paired_comparison import (
    compare_errors,
    differences_in_ranges,
    epsilon_errors,
    paired_difference,
)

PREDICTIONS = ("epsilon", "sample", "v_prediction", "mean")
TIMESTEPS = torch.tensor([0, 3, 500, 999])


def draws(seed: int) -> torch.Tensor:
    return torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def scheduler_of(kind: str, **values) -> SDDDPMScheduler:
    return SDDDPMScheduler(prediction_type=kind, clip_sample=False, **values)


def errors_of(scheduler: SDDDPMScheduler, x_0: torch.Tensor) -> torch.Tensor:
    """Give the errors of a network that takes `x_0` for the clean samples, whatever it has to predict."""

    def predict(x_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        alpha_bar = scheduler.alpha_bar(timesteps, x_t.double())
        epsilon = (x_t.double() - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()
        prediction = scheduler.training_target(x_0.double(), epsilon, timesteps)
        if scheduler.config["variance_type"] == "learned_range":
            return torch.cat([prediction, torch.full_like(prediction, 7.0)], dim=1)
        return prediction

    return epsilon_errors(scheduler, predict, draws(0), draws(1), TIMESTEPS)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_unit_is_the_same_whatever_is_predicted(kind, zero_snr):
    """Error of epsilon = SNR x error of x_0; at zero SNR that is 0, and never NaN."""
    scheduler = scheduler_of(kind, rescale_betas_zero_snr=zero_snr)
    found = errors_of(scheduler, draws(0) + 0.1)
    expected = scheduler.snr(TIMESTEPS).double() * 0.01
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert (found[-1] == 0) == zero_snr


def test_at_zero_snr_a_network_that_predicts_epsilon_is_asked_nothing_too():
    scheduler = scheduler_of("epsilon", rescale_betas_zero_snr=True)
    found = epsilon_errors(scheduler, lambda x_t, t: torch.zeros_like(x_t), draws(0), draws(1), TIMESTEPS)
    torch.testing.assert_close(found[:3], draws(1)[:3].double().square().flatten(1).mean(1))
    assert found[3] == 0


def test_of_a_learned_variance_nothing_is_asked():
    with_variance = errors_of(scheduler_of("v_prediction", variance_type="learned_range"), draws(2))
    assert torch.equal(with_variance, errors_of(scheduler_of("v_prediction"), draws(2)))


def test_the_interval_is_that_of_students_paired_test():
    rng = np.random.default_rng(0)
    a = rng.normal(1.0, 0.3, 40)
    b = a + rng.normal(0.05, 0.1, 40)
    found = paired_difference(a, b)
    interval = ttest_rel(b, a).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.difference == pytest.approx(b.mean() - a.mean())
    swapped = paired_difference(b, a)
    assert (swapped.difference, swapped.low, swapped.high) == (-found.difference, -found.high, -found.low)


@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_covers_the_truth_as_often_as_it_says(skewed):
    """Images differ much, and the models little: 95% of the intervals hold the difference over all images."""
    rng, trials, truth = np.random.default_rng(1), 4000, -0.02
    hits = 0
    for _ in range(trials):
        a = rng.lognormal(0.0, 1.0, 64)
        noise = (rng.gamma(4.0, 0.5, 64) - 2.0) if skewed else rng.normal(0.0, 1.0, 64)
        found = paired_difference(a, a + truth + 0.1 * noise)
        hits += found.low <= truth <= found.high
    assert abs(hits / trials - 0.95) < (0.015 if skewed else 3 * math.sqrt(0.95 * 0.05 / trials))


def test_verdicts():
    a = np.linspace(1, 2, 20)
    step = np.where(np.arange(20) % 2, 0.2, 0.1)
    assert paired_difference(a, a).verdict == "not told apart"
    assert paired_difference(a, a - step).verdict == "better"
    assert paired_difference(a, a + step).verdict == "worse"
    assert paired_difference(a, a + step - 0.15).verdict == "not told apart"
    alone = paired_difference(a[:1], a[:1] + 1)
    assert (alone.low, alone.high, alone.verdict) == (None, None, "not told apart")


def test_ranges_hold_what_is_in_them():
    """An image counts once in a range, with the mean of its timesteps there, and not where it has none."""
    ranges = np.array([[0, 0, 2], [0, 2, 2], [0, 2, 2]])
    a = np.zeros((3, 3))
    b = np.array([[1.0, 3.0, 6.0], [2.0, 4.0, 4.0], [2.0, 2.0, 2.0]])
    found = differences_in_ranges(a, b, ranges, ["low", "middle", "high"])
    assert list(found) == ["low", "high"]
    assert found["low"].difference == pytest.approx(2.0)
    assert found["low"].low == found["low"].high == pytest.approx(2.0)
    assert found["high"].difference == pytest.approx(4.0)
    some = differences_in_ranges(a, b, np.array([[1, 0, 0], [0, 0, 0], [0, 0, 0]]), ["low", "high"])
    assert (some["high"].num_images, some["high"].low) == (1, None)


def test_what_is_told():
    rng = np.random.default_rng(2)
    a = rng.uniform(1, 2, (30, 2))
    found = compare_errors(a, 0.9 * a, np.array([[0, 1]] * 30), ["t0_4", "t5_9"])
    assert found.verdict.startswith("B is better than A: B - A is -0.1")
    assert "-10.00% of that of A" in found.verdict
    assert "30 images" in found.verdict
    head, whole, low, high = found.table.splitlines()
    assert head.split()[0] == "timesteps"
    assert whole.startswith("all")
    assert whole.endswith("better")
    assert low.startswith("0 to 4")
    assert high.startswith("5 to 9")
    results = found.results()
    assert results["b_is"] == "better"
    assert list(results["ranges"]) == ["t0_4", "t5_9"]
    assert results["all"]["difference"] == pytest.approx(-0.1 * a.mean())
    assert found.of_images[3] == pytest.approx((a[3].mean(), 0.9 * a[3].mean()))
    worse = compare_errors(0.9 * a, a, np.array([[0, 1]] * 30), ["t0_4", "t5_9"])
    assert worse.verdict.startswith("B is worse than A: B - A is +0.1")
    assert compare_errors(a, a, np.zeros((30, 2)), ["t0_9"]).verdict.startswith(
        "no difference can be told: B - A is +0"
    )
