"""What one run of a pipeline leaves to the next: packed layers, and nothing that outlives a change."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn

from sd_pipeline import SDPipeline
from sd_pipeline.models.packed_layers import PackedLayers
from sd_pipeline.pipelines import prediction
from sd_pipeline.pretrained_models import packaged_model
from tests.components import tiny_components
from tests.pictures import generator
from tests.pipelines.conftest import quiet

PROMPT = "a red circle"


def shapes() -> SDPipeline:
    return quiet(SDPipeline.from_pretrained(packaged_model("pretrained/shapes-64")))


def draw(pipe: SDPipeline, **call: Any) -> np.ndarray:
    usual = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}
    return pipe(PROMPT, generator=generator(), **{**usual, **call}).images


@pytest.fixture
def packed(monkeypatch) -> list[nn.Module]:
    """The networks whose layers were packed, each time anew."""
    networks: list[nn.Module] = []
    start = PackedLayers.__init__

    def watched(self: PackedLayers, network: nn.Module) -> None:
        networks.append(network)
        start(self, network)

    monkeypatch.setattr(PackedLayers, "__init__", watched)
    return networks


def test_layers_are_packed_once_for_all_runs(packed):
    pipe = shapes()
    first = draw(pipe)
    assert np.array_equal(draw(pipe), first)
    draw(pipe, callback_on_step_end=lambda pipe, step, timestep, tensors: tensors)
    draw(pipe, num_images_per_prompt=3)
    assert np.array_equal(draw(pipe), first)
    assert packed == [pipe.unet]


def test_large_copies_are_given_up_after_a_run(packed, monkeypatch):
    monkeypatch.setattr(prediction, "_MOST_KEPT_BYTES", 1000)
    pipe = shapes()
    assert np.array_equal(draw(pipe), draw(pipe))
    assert packed == [pipe.unet] * 2


def _in_place(unet: Any) -> None:
    unet.mid_block.resnets[0].conv1.weight.mul_(0.5)


def _another_weight(unet: Any) -> None:
    unet.conv_in.weight = nn.Parameter(unet.conv_in.weight.flip(2))


def _loaded(unet: Any) -> None:
    unet.load_state_dict({name: weight * 0.9 for name, weight in unet.state_dict().items()})


def _another_layer(unet: Any) -> None:
    old = unet.up_blocks[0].resnets[0].conv2
    unet.up_blocks[0].resnets[0].conv2 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1).eval()


@torch.no_grad()
@pytest.mark.parametrize("change", [_in_place, _another_weight, _loaded, _another_layer])
def test_a_changed_u_net_is_packed_anew(packed, change):
    torch.manual_seed(0)
    pipe = shapes()
    before = draw(pipe)
    change(pipe.unet)
    after = draw(pipe)
    assert packed == [pipe.unet] * 2
    other = shapes()
    other.register_modules(unet=pipe.unet)
    prediction._kept_layers.clear()
    assert np.array_equal(after, draw(other))
    assert np.abs(after - before).max() > 1e-3


def test_a_u_net_that_nobody_needs_is_gone():
    pipe = shapes()
    draw(pipe)
    unet = weakref.ref(pipe.unet)
    del pipe
    gc.collect()
    assert unet() is None


def test_the_device_is_that_of_diffusers_with_and_without_offloading():
    pipe = quiet(SDPipeline(**tiny_components()))
    assert pipe._execution_device == torch.device("cpu")
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        add_hook_to_module(model, AlignDevicesHook(execution_device=torch.device("meta")))
    assert pipe._execution_device == torch.device("meta")
