"""The losses of a run are read, smoothed and drawn."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from training.release.training_curve import draw_training_curve, read_losses, smoothed


@pytest.fixture
def metrics(tmp_path):
    rows = [{"stage": "autoencoder", "step": 10 * n, "loss": -float(n), "kl": 1.0} for n in range(1, 30)]
    rows += [{"stage": "autoencoder", "step": 290, "validation_psnr": 20.0}]
    rows += [{"stage": "diffusion", "step": 1, "loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "metrics.jsonl"


def test_losses_by_stage(metrics):
    curves = read_losses(metrics)
    assert list(curves) == ["autoencoder", "diffusion"]
    steps, losses = curves["autoencoder"]
    assert (len(steps), steps[-1], losses[-1]) == (29, 290, -29.0)
    assert curves["diffusion"] == ([1], [0.5])


def test_smoothing_keeps_means_and_takes_noise():
    noise = np.random.default_rng(0).standard_normal(500)
    assert smoothed(noise).std() < 0.3
    np.testing.assert_allclose(smoothed([2.0] * 7), 2.0)
    np.testing.assert_allclose(smoothed(range(500))[100:400], range(100, 400), atol=1e-6)
    np.testing.assert_array_equal(smoothed([3.0]), [3.0])


def test_picture_with_a_panel_a_stage(metrics):
    with Image.open(io.BytesIO(draw_training_curve(metrics))) as picture:
        assert picture.width > 1.5 * picture.height
        assert (np.asarray(picture.convert("RGB")) == (31, 119, 180)).all(axis=-1).any(), "the curve is blue"
        assert not picture.info.keys() & {"Software", "Creation Time"}
    assert draw_training_curve(metrics) == draw_training_curve(metrics)


def test_runs_without_losses(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl: cannot be read \(FileNotFoundError"):
        draw_training_curve(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text('{"stage": "diffusion", "step": 1, "validation_psnr": 1.0}\n')
    with pytest.raises(ValueError, match="holds no loss"):
        draw_training_curve(tmp_path / "metrics.jsonl")
