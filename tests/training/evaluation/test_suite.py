"""The protocol of a call: what is generated with, even where the model decides it."""

from __future__ import annotations

import json

import pytest

from sd_pipeline import SDPipeline
from tests.components import tiny_components, tiny_scheduler, tiny_unconditional_unet, tiny_unet, tiny_vae
from training.evaluation.suite import Call, aligned, sampling_line


@pytest.fixture(scope="module")
def pipe() -> SDPipeline:
    return SDPipeline(**tiny_components(), recommended_call={"num_inference_steps": 3, "eta": 0.5})


def test_the_protocol_is_what_the_pipeline_does(pipe):
    protocol = Call(seed=4).protocol(pipe)
    assert json.loads(json.dumps(protocol)) == protocol
    assert protocol == {
        "width": 32,
        "height": 32,
        "scheduler": "SDDDPMScheduler",
        "num_inference_steps": 3,
        "guidance_scale": 7.5,
        "guidance_rescale": 0.0,
        "eta": 0.5,
        "seed": 4,
        "batch_size": 25,
        "dtype": "float32",
    }
    expected = "32x32 pixels, SDDDPMScheduler, 3 steps, guidance scale 7.5, eta 0.5, seed 4"
    assert sampling_line(protocol) == expected
    asked = Call(num_inference_steps=7, guidance_scale=2.0).protocol(pipe)
    assert (asked["num_inference_steps"], asked["guidance_scale"], asked["eta"]) == (7, 2.0, 0.5)
    assert Call(eta=0.0).protocol(pipe)["eta"] == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"seed": -1}, "--seed -1: allowed: 0 to 4294967295"),
        ({"seed": 2**32}, "--seed 4294967296: allowed"),
        ({"batch_size": 0}, "--batch-size 0: allowed: at least 1"),
    ],
)
def test_impossible_calls(call, message):
    with pytest.raises(ValueError, match=message):
        Call(**call)


def test_calls_that_the_model_refuses(pipe):
    with pytest.raises(ValueError, match="`num_inference_steps` is 0"):
        Call(num_inference_steps=0).protocol(pipe)
    with pytest.raises(ValueError, match="`guidance_scale` is nan"):
        Call(guidance_scale=float("nan")).protocol(pipe)
    with pytest.raises(ValueError, match="`eta` is 2"):
        Call(eta=2.0).protocol(pipe)
    unconditional = SDPipeline(unet=tiny_unconditional_unet(), vae=tiny_vae(), scheduler=tiny_scheduler())
    with pytest.raises(ValueError, match="takes no prompts as text; allowed: text-to-image models"):
        Call().protocol(unconditional)
    misfit = SDPipeline(**{**tiny_components(), "unet": tiny_unet(in_channels=3, out_channels=3)})
    with pytest.raises(ValueError, match="`unet` takes 3 channels, but `vae` makes 4"):
        Call().protocol(misfit)


def test_columns():
    assert aligned([("a", "bcd", ""), ("ef", "g", "h")]) == "a   bcd\nef  g    h"
