"""Whatever is asked of the U-Net, prepared or not, the pictures are those of the U-Net itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from torch import nn

from sd_pipeline import SDImg2ImgPipeline, SDInpaintPipeline, SDOutpaintPipeline, SDPipeline
from sd_pipeline.models.prepared_unet import PreparedUNet
from sd_pipeline.pipelines.denoising import DenoisingInputs, denoise
from sd_pipeline.pipelines.scheduler_use import set_timesteps
from sd_pipeline.pretrained_models import packaged_model
from tests.components import HIDDEN_SIZE, tiny_components, tiny_unet
from tests.pictures import generator, hole, picture
from tests.pipelines.conftest import quiet

PROMPT = "a red circle"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


class Wrapped(nn.Module):
    """The U-Net as something that nobody knows: it is called as it is."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.unet(*args, **kwargs)


@pytest.fixture
def prepared(monkeypatch) -> list[tuple[int, int]]:
    """The steps that a prepared U-Net took, and the size of the batch."""
    calls: list[tuple[int, int]] = []
    call = PreparedUNet.__call__

    def watched(self: PreparedUNet, sample: torch.Tensor, step: int) -> torch.Tensor:
        calls.append((step, len(sample)))
        return call(self, sample, step)

    monkeypatch.setattr(PreparedUNet, "__call__", watched)
    return calls


def inputs_of(scheduler: Any, **changes: Any) -> DenoisingInputs:
    random = generator(0)
    timesteps = set_timesteps(scheduler, 4)
    latents = torch.randn(2, 4, 8, 8, generator=random) * scheduler.init_noise_sigma
    texts = torch.randn(4, 7, HIDDEN_SIZE, generator=random)
    usual = {"encoder_hidden_states": texts, "guidance_scale": 3.0}
    return DenoisingInputs(latents, timesteps, **{**usual, **changes})


@torch.no_grad()
@pytest.mark.parametrize(
    "scheduler_class",
    [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler],
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance_scale": 1.0},
        {"window": (4, 8)},
        {"guidance_rescale": 0.7},
        {"added_channels": torch.ones(2, 5, 8, 8)},
    ],
    ids=lambda changes: "-".join(changes) or "usual",
)
def test_the_loop_makes_what_it_makes_of_the_unet_itself(prepared, scheduler_class, changes):
    unet = tiny_unet(in_channels=9 if "added_channels" in changes else 4)
    if changes.get("guidance_scale") == 1.0:
        changes = {**changes, "encoder_hidden_states": torch.randn(2, 7, HIDDEN_SIZE, generator=generator(1))}
    made = []
    for one in (unet, Wrapped(unet)):
        scheduler = scheduler_class()
        inputs = inputs_of(scheduler, **changes)
        made.append(denoise(one, scheduler, inputs))
    # Random weights let some latents grow to hundreds.
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-4 * float(made[1].abs().max()))
    num_windows = 3 if "window" in changes else 1
    assert len(prepared) == num_windows * len(inputs.timesteps)
    assert {batch_size for _, batch_size in prepared} == {2}, "the halves are one until they look at the text"


@torch.no_grad()
@pytest.mark.parametrize("guidance_rescale", [0.0, 0.7])
def test_guidance_away_from_the_prompt_itself_asks_once(prepared, guidance_rescale):
    unet, texts = tiny_unet(), torch.randn(2, 7, HIDDEN_SIZE, generator=generator(1))
    changes = {"guidance_rescale": guidance_rescale, "encoder_hidden_states": torch.cat([texts] * 2)}
    made, unguided = (
        denoise(unet, scheduler, inputs_of(scheduler, **{**changes, **others}))
        for scheduler, others in (
            (DDIMScheduler(), {}),
            (DDIMScheduler(), {"guidance_scale": 1.0, "encoder_hidden_states": texts}),
        )
    )
    torch.testing.assert_close(made, unguided, **CLOSE)
    scheduler = DDIMScheduler()
    torch.testing.assert_close(made, denoise(Wrapped(unet), scheduler, inputs_of(scheduler, **changes)), **CLOSE)
    assert len(prepared) == 8


def ours_and_stock() -> tuple[SDPipeline, StableDiffusionPipeline]:
    """Make two pipelines with the same weights, each its own."""
    stock = StableDiffusionPipeline(**SDPipeline(**tiny_components()).components, requires_safety_checker=False)
    return quiet(SDPipeline(**tiny_components())), quiet(stock)


PLAIN: dict[str, Any] = {
    "another processor": lambda pipe: pipe.unet.set_attn_processor(AttnProcessor()),
    "attention slicing": lambda pipe: pipe.enable_attention_slicing(1),
    "FreeU": lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4),
    "a hook": lambda pipe: pipe.unet.mid_block.register_forward_hook(lambda module, args, output: output * 1.1),
    "training": lambda pipe: pipe.unet.train(),
    "compiled": lambda pipe: pipe.unet.compile(backend="eager"),
    "chunks": lambda pipe: pipe.unet.mid_block.attentions[0].transformer_blocks[0].set_chunk_feed_forward(2, 1),
    "group offloading": lambda pipe: pipe.unet.enable_group_offload(torch.device("cpu"), offload_type="leaf_level"),
    "wrapped": lambda pipe: setattr(pipe, "unet", torch.compile(pipe.unet, backend="eager")),
}


@pytest.mark.parametrize("change", PLAIN.values(), ids=PLAIN)
def test_a_changed_unet_is_called_as_it_is_in_diffusers(prepared, change):
    """To the bit: only what is known to be the same is computed otherwise."""
    pipe = quiet(SDPipeline(**tiny_components()))
    stock = quiet(StableDiffusionPipeline(**pipe.components, requires_safety_checker=False))
    change(pipe)
    stock.unet = pipe.unet
    call = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}
    made, expected = (one(PROMPT, generator=generator(), **call).images for one in (pipe, stock))
    assert torch.equal(made, expected)
    assert prepared == []


def test_a_call_that_asks_for_more_is_that_of_diffusers(prepared, pipe, stock_pipe):
    call = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}
    for changes in ({"cross_attention_kwargs": {"scale": 1.0}},):
        made, expected = (one(PROMPT, generator=generator(), **call, **changes).images for one in (pipe, stock_pipe))
        assert torch.equal(made, expected)
    with torch.autocast("cpu", torch.bfloat16):
        pipe(PROMPT, **call)
    assert prepared == []
    scheduler = DDIMScheduler()
    inputs = inputs_of(scheduler)
    latents = inputs.latents.requires_grad_()
    denoise(pipe.unet, scheduler, inputs).sum().backward()
    assert prepared == []
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    pipe(PROMPT, **call, cross_attention_kwargs={})
    assert len(prepared) == 3


def flip_texts(pipe: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"prompt_embeds": tensors["prompt_embeds"].flip(2)}


def flip_texts_in_place(pipe: Any, tensors: dict[str, torch.Tensor]) -> None:
    tensors["prompt_embeds"].copy_(tensors["prompt_embeds"].flip(2))


def change_guidance(pipe: Any, tensors: dict[str, torch.Tensor]) -> None:
    pipe._guidance_scale = 2.5


def stop_guidance(pipe: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    pipe._guidance_scale = 0.0
    return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]}


def change_latents(pipe: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"latents": tensors["latents"] * 0.9}


def change_weights(pipe: Any, tensors: dict[str, torch.Tensor]) -> None:
    pipe.unet.conv_in.weight.mul_(1.1)
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight.mul_(1.1)


def add_adapter(pipe: Any, tensors: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "conv1"], init_lora_weights=False))
    pipe.unet.eval()


def add_hook(pipe: Any, tensors: dict[str, torch.Tensor]) -> None:
    pipe.unet.mid_block.register_forward_hook(lambda module, args, output: output * 1.1)


CHANGES = [
    flip_texts,
    flip_texts_in_place,
    change_guidance,
    stop_guidance,
    change_latents,
    change_weights,
    add_adapter,
    add_hook,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_a_callback_changes_has_an_effect_at_once(change, mode):
    """In the middle of a run, compared with diffusers, which computes everything anew in each step."""
    names = ["latents", "prompt_embeds"]
    call = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "latent"}
    made = []
    for pipe in ours_and_stock():

        def callback(pipeline, step, timestep, tensors):
            return (change(pipeline, tensors) if step == 1 else None) or {}

        with mode():
            unchanged = pipe(PROMPT, generator=generator(), **call).images
            watching = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": names}
            made.append(pipe(PROMPT, generator=generator(), **call, **watching).images)
        assert (made[-1] - unchanged).abs().max() > 1e-3
    torch.testing.assert_close(made[0], made[1], **CLOSE)


def test_adapters_that_a_callback_scales_have_an_effect_at_once():
    made = []
    for pipe in ours_and_stock():
        torch.manual_seed(0)
        pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False), "style")
        pipe.unet.eval()

        def callback(pipeline, step, timestep, tensors):
            pipeline.set_adapters(["style"], [0.2 * step])
            return tensors

        call = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "latent"}
        made.append(pipe(PROMPT, generator=generator(), callback_on_step_end=callback, **call).images)
    torch.testing.assert_close(made[0], made[1], **CLOSE)


@pytest.fixture(scope="module")
def shapes() -> tuple[SDPipeline, StableDiffusionPipeline]:
    """The packaged model, which is large enough for layers to be packed."""
    folder = packaged_model("pretrained/shapes-64")
    return quiet(SDPipeline.from_pretrained(folder)), quiet(StableDiffusionPipeline.from_pretrained(folder))


TASKS: dict[str, Any] = {
    "text-to-image": (SDPipeline, StableDiffusionPipeline, {"num_inference_steps": 6}),
    "image-to-image": (
        SDImg2ImgPipeline,
        StableDiffusionImg2ImgPipeline,
        {"num_inference_steps": 6, "image": picture(64, 64), "strength": 0.8},
    ),
    "inpainting": (
        SDInpaintPipeline,
        StableDiffusionInpaintPipeline,
        {"num_inference_steps": 6, "image": picture(64, 64), "mask_image": hole(64, 64), "strength": 1.0},
    ),
}


@pytest.mark.parametrize(("ours", "stock", "call"), TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_pictures_of_the_packaged_model_are_those_of_diffusers(shapes, prepared, ours, stock, call, batch_size):
    call = {**call, "guidance_scale": 2.0, "eta": 1.0, "num_images_per_prompt": batch_size, "output_type": "latent"}
    stock = quiet(stock(**shapes[1].components, requires_safety_checker=False))
    if "mask_image" in call:
        call = {**call, "height": 64, "width": 64}
    mine = quiet(ours.from_pipe(shapes[0]))
    made, expected = (one(PROMPT, generator=generator(), **call).images for one in (mine, stock))
    with torch.no_grad():
        pictures = [shapes[0].decode_latents(latents) for latents in (made, expected)]
    np.testing.assert_allclose(pictures[0], pictures[1], rtol=0, atol=1e-4)
    assert len(prepared) >= 4
    assert torch.equal(mine(PROMPT, generator=generator(), **call).images, made), "the same bits each time"


def test_outpainting_is_prepared(shapes, prepared):
    pipe = quiet(SDOutpaintPipeline.from_pipe(shapes[0]))
    image = picture(64, 64)
    made = pipe(PROMPT, image=image, padding=(0, 0, 32, 0), num_inference_steps=3, generator=generator()).images[0]
    assert len(prepared) >= 3
    np.testing.assert_array_equal(np.asarray(made)[:, :64], np.asarray(image))


def test_half_precision(shapes):
    half = quiet(SDPipeline.from_pretrained(packaged_model("pretrained/shapes-64"), dtype=torch.bfloat16))
    call = {"num_inference_steps": 8, "eta": 0.0, "output_type": "pt"}
    latents = torch.randn(2, 4, 16, 16, generator=generator())
    whole, made = (pipe([PROMPT] * 2, latents=latents, **call).images.float() for pipe in (shapes[0], half))
    assert (whole - made).square().mean().sqrt() < 0.05
