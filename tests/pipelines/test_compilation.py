"""The compiled U-Net makes the same pictures, and is compiled once a shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from diffusers.models.attention_processor import AttnProcessor

from sd_pipeline import SDImg2ImgPipeline, SDInpaintPipeline, SDPipeline
from tests.components import (
    tiny_components,
    tiny_scheduler,
    tiny_unconditional_unet,
    tiny_unet,
    tiny_vae,
)
from tests.pictures import generator, hole, picture
from tests.pipelines.conftest import quiet

PROMPT = "a red circle"
CALL = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


class Counted:
    """A backend of torch.compile that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Any:
        self.num_graphs += 1
        return graph.forward


@pytest.fixture
def counted() -> Counted:
    torch._dynamo.reset()
    return Counted()


def latents_of(pipe: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    latents: torch.Tensor = pipe(*args, generator=generator(), **{**CALL, **kwargs}).images
    return latents


def test_each_shape_is_compiled_once_and_pictures_stay(counted):
    pipe = quiet(SDPipeline(**tiny_components()))
    calls: list[dict[str, Any]] = [
        {"prompt": PROMPT},
        {"prompt": "a blue square"},
        {"prompt": [PROMPT, "x"]},
        {"prompt": PROMPT, "guidance_scale": 1.0},
        {"prompt": PROMPT, "height": 16, "width": 24},
    ]
    expected = [latents_of(pipe, **call) for call in calls]
    pipe.compile_unet(backend=counted, fullgraph=True)
    num_graphs = []
    for call, latents in zip(calls, expected, strict=True):
        torch.testing.assert_close(latents_of(pipe, **call), latents, **CLOSE)
        num_graphs.append(counted.num_graphs)
    assert num_graphs == [1, 1, 2, 3, 4]
    for call in calls:
        latents_of(pipe, **call)
    assert counted.num_graphs == 4


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, PNDMScheduler])
def test_warm_up_leaves_nothing_to_compile(counted, scheduler_class):
    pipe = quiet(SDPipeline(**tiny_components()))
    pipe.scheduler = scheduler_class.from_config({**pipe.scheduler.config, "skip_prk_steps": True})
    pipe.compile_unet(warm_up_batch_sizes=[1, 2], backend=counted, fullgraph=True)
    assert counted.num_graphs == 2
    latents_of(pipe, PROMPT)
    latents_of(pipe, [PROMPT, "x"])
    assert counted.num_graphs == 2


def test_pipelines_share_the_compiled_unet(counted):
    pipe = quiet(SDPipeline(**tiny_components()))
    img2img = quiet(SDImg2ImgPipeline.from_pipe(pipe))
    call = {"prompt": PROMPT, "image": picture()}
    expected = latents_of(img2img, **call)
    pipe.compile_unet(backend=counted)
    torch.testing.assert_close(latents_of(img2img, **call), expected, **CLOSE)
    assert counted.num_graphs == 1
    pipe.unet.set_attn_processor(AttnProcessor())
    latents_of(img2img, **call)
    assert counted.num_graphs == 1, "it is called as it is"


def test_inpainting_and_unconditional_models(counted):
    components = {**tiny_components(), "unet": tiny_unet(in_channels=9)}
    inpaint = quiet(SDInpaintPipeline(**components))
    inpaint.compile_unet(warm_up_batch_sizes=[1], backend=counted)
    latents_of(inpaint, PROMPT, picture(), hole())
    assert counted.num_graphs == 1
    config = {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "mid_block_type": None,
    }
    pipe = quiet(SDPipeline(unet=tiny_unet(**config), vae=tiny_vae(), scheduler=tiny_scheduler()))
    pipe.compile_unet(warm_up_batch_sizes=[2], backend=counted)
    latents_of(pipe, batch_size=2)
    assert counted.num_graphs == 2


def test_weights_that_change_later_have_an_effect(counted):
    pipe = quiet(SDPipeline(**tiny_components()))
    pipe.compile_unet(backend=counted)
    before = latents_of(pipe, PROMPT)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.5)
    changed = latents_of(pipe, PROMPT)
    assert (changed - before).abs().max() > 1e-2
    pipe.unet.compiled_forward = None
    torch.testing.assert_close(changed, latents_of(pipe, PROMPT), **CLOSE)


@pytest.mark.slow
def test_the_compiler_of_torch():
    pipe = quiet(SDPipeline(**tiny_components()))
    expected = latents_of(pipe, PROMPT)
    torch._dynamo.reset()
    pipe.compile_unet("reduce-overhead", warm_up_batch_sizes=[1])
    torch.testing.assert_close(latents_of(pipe, PROMPT), expected, **CLOSE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "fast"}, "`mode` is 'fast'; it must be one of default, reduce-overhead"),
        ({"warm_up_batch_sizes": [0]}, "`warm_up_batch_sizes` is 0; it must be an integer of at least 1"),
        ({"warm_up_batch_sizes": [1], "height": 30}, "height"),
    ],
)
def test_impossible_arguments_are_one_line(arguments, message):
    pipe = SDPipeline(**tiny_components())
    with pytest.raises(ValueError, match=message) as error:
        pipe.compile_unet(**arguments)
    assert "\n" not in str(error.value)
    assert pipe.unet.compiled_forward is None


def test_a_unet_that_is_called_as_it_is_is_refused():
    pipe = SDPipeline(unet=tiny_unconditional_unet(), vae=tiny_vae(), scheduler=tiny_scheduler())
    with pytest.raises(ValueError, match=r"`unet` \(SDUNet2DConditionModel\) has other blocks") as error:
        pipe.compile_unet()
    assert "\n" not in str(error.value)
