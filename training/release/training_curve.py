"""The picture of a training: the loss of every stage against its updates."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

Curve = tuple[list[int], list[float]]


def read_losses(file: Path) -> dict[str, Curve]:
    """Read the losses of a run.

    Args:
        file (`Path`): `metrics.jsonl` of the run.

    Returns:
        `dict[str, Curve]`: For each stage, in the order of training, the logged updates and the loss at each.

    Raises:
        ValueError: If there is no such file, or no loss in it.
    """
    curves: dict[str, Curve] = {}
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read ({type(error).__name__}: {error})") from error
    for row in rows:
        if "loss" in row:
            steps, losses = curves.setdefault(row["stage"], ([], []))
            steps.append(row["step"])
            losses.append(row["loss"])
    if not curves:
        raise ValueError(f"{file}: holds no loss; allowed: the metrics of a run that has trained")
    return curves


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """Average each loss with its neighbours: a Gaussian window whose deviation is a fiftieth of the curve.

    Args:
        losses (sequence of `float`): One after the other.

    Returns:
        `np.ndarray` of shape `(len(losses),)`, float64: weighted means; beyond its ends the curve goes on as there.
    """
    return gaussian_filter1d(np.asarray(losses, dtype=np.float64), sigma=len(losses) / 50, mode="nearest")


def draw_training_curve(file: Path, stages: Sequence[str] | None = None) -> bytes:
    """Draw the losses of a run, a panel a stage: each logged loss, pale, and their smoothed curve.

    Args:
        file (`Path`): `metrics.jsonl` of the run.
        stages (sequence of `str`, *optional*): Which of them; all by default.

    Returns:
        `bytes`: A PNG file.

    Raises:
        ValueError: As `read_losses`, or if there is no loss of these stages.
    """
    # Without `pyplot`, which would choose a window system and keep the figure.
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    curves = {name: curve for name, curve in read_losses(file).items() if stages is None or name in stages}
    if not curves:
        raise ValueError(f"{file}: holds no loss of {stages}")
    figure = Figure(figsize=(4.2 * len(curves), 3.2), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (stage, (steps, losses)) in zip(panels, curves.items(), strict=True):
        panel.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
        panel.plot(steps, smoothed(losses), color="tab:blue", linewidth=1.6)
        panel.set(title=stage, xlabel="updates", ylabel="loss")
        if min(losses) > 0:
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()
