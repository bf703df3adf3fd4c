"""The models that are timed side by side are the same model."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.compared_models import SHAPES, draw, pair_of_11m, recommended_call


def test_the_recommended_call_is_that_of_the_repository():
    assert recommended_call(SHAPES) == {"num_inference_steps": 25, "guidance_scale": 2.0, "eta": 1.0}


@pytest.mark.usefixtures("quiet_libraries")
def test_both_draw_the_same():
    pair = pair_of_11m()
    assert round(sum(parameter.numel() for parameter in pair.ours.unet.parameters()) / 1e6, 1) == 10.9
    call = {**pair.call, "num_inference_steps": 2}
    ours, stock = (draw(pipeline, call, 1) for pipeline in (pair.ours, pair.stock))
    np.testing.assert_allclose(ours, stock, atol=1e-3)
