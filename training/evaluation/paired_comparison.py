"""Two models on the same images with the same noise: their errors in one unit, and what the differences tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from sd_pipeline import SDDDPMScheduler
from training.evaluation.suite import aligned

CONFIDENCE = 0.95


@torch.no_grad()
def epsilon_errors(
    scheduler: SDDDPMScheduler,
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x_0: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
) -> torch.Tensor:
    """Diffuse, predict, and give the squared error of epsilon, whatever the network predicts.

    Of a learned variance nothing is asked, and no x_0 is clipped. The error is alpha_bar / (1 - alpha_bar) times that
    of x_0, so at alpha_bar = 0 (zero terminal SNR), where x_t is epsilon and tells nothing of x_0, it counts as 0 for
    every network, also for one that predicts epsilon.

    Args:
        scheduler (`SDDDPMScheduler`): The forward process, and what is predicted.
        predict (callable): The network: x_t in float32 and timesteps in, its output out.
        x_0 (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Clean samples.
        noise (`torch.Tensor`, same shape): epsilon.
        timesteps (`torch.LongTensor` of shape `(batch_size,)`): t.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float64: mean over the values of a sample; 1 is what predicting 0
        gives.
    """
    noise = noise.double()
    x_t = scheduler.add_noise(x_0.double(), noise, timesteps)
    prediction, _ = scheduler.split_output(predict(x_t.float(), timesteps).double(), x_t)
    epsilon = scheduler.predict_epsilon(prediction, x_t, timesteps)
    errors = (epsilon - noise).square().flatten(1).mean(1)
    return errors * (scheduler.alpha_bar(timesteps, x_t).flatten() > 0)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Errors of two models on the same images, and the interval of their mean difference.

    Args:
        num_images (`int`): On how many.
        mean_a (`float`): Mean error of A.
        mean_b (`float`): Mean error of B.
        difference (`float`): Mean of B - A; below 0, B has the smaller error.
        low (`float`, *optional*): Lower end of the interval; none for a single image.
        high (`float`, *optional*): Upper end.
    """

    num_images: int
    mean_a: float
    mean_b: float
    difference: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """`"better"` or `"worse"`, which B is than A if the interval does not hold 0; otherwise `"not told apart"`."""
        if self.high is not None and self.high < 0:
            return "better"
        return "worse" if self.low is not None and self.low > 0 else "not told apart"


def paired_difference(errors_a: np.ndarray, errors_b: np.ndarray) -> PairedDifference:
    """Compare the mean errors of two models over images that are drawn from all images.

    d_i = b_i - a_i,  mean(d) +- t s(d) / sqrt(n),  t the quantile of Student's distribution with n - 1 degrees

    Args:
        errors_a (`np.ndarray` of shape `(num_images,)`): Of A, one an image; at least one.
        errors_b (`np.ndarray`, same shape): Of B, of the same images in the same order.

    Returns:
        `PairedDifference`: with an interval that holds the difference over all images with a probability of 95%.
    """
    differences = np.asarray(errors_b, dtype=np.float64) - np.asarray(errors_a, dtype=np.float64)
    number, mean = len(differences), float(differences.mean())
    low = high = None
    if number > 1:
        reach = student.ppf((1 + CONFIDENCE) / 2, number - 1) * differences.std(ddof=1) / math.sqrt(number)
        low, high = float(mean - reach), float(mean + reach)
    return PairedDifference(number, float(np.mean(errors_a)), float(np.mean(errors_b)), mean, low, high)


def differences_in_ranges(
    errors_a: np.ndarray, errors_b: np.ndarray, ranges: np.ndarray, names: Sequence[str]
) -> dict[str, PairedDifference]:
    """Compare two models within each range of timesteps.

    Args:
        errors_a (`np.ndarray` of shape `(num_images, num_timesteps)`): Of A.
        errors_b (`np.ndarray`, same shape): Of B.
        ranges (`np.ndarray`, same shape, integers): Which range each timestep is in.
        names (sequence of `str`): Of the ranges.

    Returns:
        `dict[str, PairedDifference]`: By name, over the images that have a timestep in the range; an image with
        several counts with their mean. A range that no image looks at is not in it.
    """
    found = {}
    for number, name in enumerate(names):
        inside = ranges == number
        counts = inside.sum(1)
        seen = counts > 0
        if seen.any():
            means = [(np.where(inside, e, 0).sum(1)[seen] / counts[seen]) for e in (errors_a, errors_b)]
            found[name] = paired_difference(*means)
    return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the errors of two models tell.

    Args:
        whole (`PairedDifference`): Over all timesteps.
        ranges (`dict[str, PairedDifference]`): Within each range of timesteps, by a name such as `"t000_099"`; each
            interval is one by itself, and of ten of them one may miss by chance.
        of_images (`list[tuple[float, float]]`): Errors of A and of B on each image, over all timesteps.
    """

    whole: PairedDifference
    ranges: dict[str, PairedDifference]
    of_images: list[tuple[float, float]]

    @property
    def verdict(self) -> str:
        """Which model is better, in a line with the numbers."""
        found = self.whole
        told = {"better": "B is better than A", "worse": "B is worse than A"}
        share = f", {found.difference / found.mean_a:+.2%} of that of A" if found.mean_a > 0 else ""
        return (
            f"{told.get(found.verdict, 'no difference can be told')}: B - A is {found.difference:+.3g}{share}, "
            f"{CONFIDENCE:.0%} interval {_interval(found)}, {found.num_images} images"
        )

    @property
    def table(self) -> str:
        """A line for all timesteps, and one for each range."""
        rows = [("timesteps", "images", "error of A", "error of B", "B - A", f"{CONFIDENCE:.0%} interval", "B is")]
        named = {name.removeprefix("t").replace("_", " to "): found for name, found in self.ranges.items()}
        for name, found in {"all": self.whole, **named}.items():
            mean_a, mean_b, difference = f"{found.mean_a:.5f}", f"{found.mean_b:.5f}", f"{found.difference:+.5f}"
            rows.append((name, str(found.num_images), mean_a, mean_b, difference, _interval(found), found.verdict))
        return aligned(rows)

    def results(self) -> dict[str, Any]:
        """Give what JSON can hold: `b_is`, `verdict`, `all`, `ranges`."""
        return {
            "b_is": self.whole.verdict,
            "verdict": self.verdict,
            "all": asdict(self.whole),
            "ranges": {name: asdict(found) for name, found in self.ranges.items()},
        }


def compare_errors(errors_a: np.ndarray, errors_b: np.ndarray, ranges: np.ndarray, names: Sequence[str]) -> Comparison:
    """Compare two models over all timesteps and in each range of them.

    Args:
        errors_a (`np.ndarray` of shape `(num_images, num_timesteps)`): Of A; an image counts with its mean.
        errors_b (`np.ndarray`, same shape): Of B.
        ranges (`np.ndarray`, same shape, integers): Which range each timestep is in.
        names (sequence of `str`): Of the ranges.
    """
    of_a, of_b = errors_a.mean(1), errors_b.mean(1)
    parts = differences_in_ranges(errors_a, errors_b, ranges, names)
    of_images = list(zip(of_a.tolist(), of_b.tolist(), strict=True))
    return Comparison(paired_difference(of_a, of_b), parts, of_images)


def _interval(found: PairedDifference) -> str:
    return "unknown" if found.low is None else f"{found.low:+.3g} to {found.high:+.3g}"
