"""Every impossible image, mask, strength or padding is one line that names it, before the model has done anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from sd_pipeline import SDImg2ImgPipeline, SDInpaintPipeline, SDOutpaintPipeline
from tests.components import tiny_components, tiny_scheduler, tiny_unconditional_unet, tiny_unet, tiny_vae
from tests.pictures import hole, picture
from tests.pipelines.test_call_arguments import PROMPT, check, guarded

IMAGE, MASK = picture(), hole()
IMAGE_CASES = [
    ({"image": None}, "`image` is None"),
    ({"image": "x.png"}, "`image` is 'x.png'"),
    ({"image": []}, r"`image` is \[\]"),
    ({"image": [None]}, "`image` is None"),
    ({"image": Image.new("RGB", (0, 0))}, "`image` is 'of 0x0 pixels'"),
    ({"image": np.zeros((32, 32, 5))}, "`image` is 'of shape"),
    ({"image": np.zeros((32, 0, 3))}, "`image` is 'of shape"),
    ({"image": np.full((32, 32, 3), np.nan)}, "`image` is 'not finite"),
    ({"image": np.full((32, 32, 3), 255.0)}, r"`image` is 'not in \[0, 1\]'"),
    ({"image": torch.randn(1, 4, 8, 8)}, r"`image` is 'not in \[0, 1\]'.*latents"),
    ({"image": [IMAGE, IMAGE]}, "`image` is 'a list of 2'; it must be one$"),
    ({"image": [IMAGE] * 2, "prompt": [PROMPT] * 3}, "`image` is 'a list of 2'; it must be one, or a list of 3"),
    ({"image": [IMAGE, picture(30, 32)], "prompt": [PROMPT] * 2}, "`image` is 'of shapes .*images of one size"),
    ({"strength": 1.01}, "`strength` is 1.01; it must be a number from 0 to 1"),
    ({"strength": -0.01}, "`strength` is -0.01"),
    ({"strength": float("nan")}, "`strength` is nan"),
    ({"strength": "0.5"}, "`strength` is '0.5'"),
    ({"strength": True}, "`strength` is True"),
    ({"strength": None}, "`strength` is None"),
    ({"prompt": None}, "neither prompt nor embeddings"),
    ({"num_images_per_prompt": 0}, "`num_images_per_prompt` is 0"),
    ({"generator": [torch.Generator()] * 2}, "`generator` is 'a list of 2'"),
    ({"generator": (torch.Generator(), 7)}, "`generator` is"),
    ({"batch_size": 2}, "`batch_size` is 2; it must be left out"),
    ({"num_inference_steps": 0}, "`num_inference_steps` is 0"),
    ({"output_type": "jpeg"}, "`output_type` is 'jpeg'"),
    ({"timesteps": [100, 900]}, "timesteps"),
]
LATENT_CASES = [
    ({"latents": torch.zeros(1, 4, 8, 7)}, r"`latents` is .*\(1, 4, 8, 7\)"),
    ({"latents": torch.zeros(2, 4, 8, 8)}, r"`latents` is .*\(2, 4, 8, 8\)"),
    ({"latents": torch.full((1, 4, 8, 8), float("nan"))}, "`latents` is 'not finite"),
    ({"latents": np.zeros((1, 4, 8, 8))}, "`latents` is ndarray"),
]
MASK_CASES = [
    ({"mask_image": None}, "`mask_image` is None"),
    ({"mask_image": "x.png"}, "`mask_image` is 'x.png'"),
    ({"mask_image": []}, r"`mask_image` is \[\]"),
    ({"mask_image": MASK[1:]}, "`mask_image` is 'of 32x31 pixels .*of the size of the image, 32x32"),
    ({"mask_image": Image.new("L", (31, 32))}, "`mask_image` is 'of 31x32 pixels"),
    ({"mask_image": MASK * 0}, "`mask_image` is 'all black'"),
    ({"mask_image": MASK * 0 + 1}, "`mask_image` is 'all white'"),
    ({"mask_image": [MASK, MASK]}, "`mask_image` is 'a list of 2'; it must be one$"),
    ({"mask_image": [MASK] * 3, "prompt": [PROMPT] * 2}, "`mask_image` is 'a list of 3'; .* a list of 2"),
    ({"mask_image": MASK * np.nan}, "`mask_image` is 'not finite"),
    ({"mask_image": MASK * 255}, "`mask_image` is 'not in"),
    ({"height": 0}, "`height` is 0; it must be a positive"),
    ({"width": -32}, "`width` is -32"),
    ({"width": 32.0}, "`width` is 32.0"),
    ({"height": "32"}, "`height` is '32'"),
    ({"height": 4, "width": 4, "mask_image": hole(32, 32, 5, 5, 6, 6)}, "`mask_image` is 'all black'"),
    ({"height": 4, "width": 4, "mask_image": 1 - hole(32, 32, 5, 5, 6, 6)}, "`mask_image` is 'all white'"),
    ({"masked_image_latents": torch.zeros(1, 4, 8, 8)}, "`masked_image_latents` is .* left out: this U-Net"),
]
PADDING_CASES = [
    ({"padding": padding}, "`padding` is .*four integers of at least 0, not all 0")
    for padding in (
        (0, 0, 0, 0),
        (-1, 0, 0, 5),
        (1.0, 0, 0, 0),
        (float("nan"), 0, 0, 0),
        (1, 2, 3),
        (1, 2, 3, 4, 5),
        (True, 0, 0, 0),
        ("1", 0, 0, 0),
        True,
        5,
        None,
        "abcd",
        np.array([5, 0, 0, 0]),
        {"left": 5},
    )
]


def ids(value) -> str | None:
    return value[:40] if isinstance(value, str) else None


@pytest.fixture(scope="module")
def components() -> dict:
    return guarded(SDInpaintPipeline(**tiny_components())).components


@pytest.mark.parametrize(("call", "message"), IMAGE_CASES, ids=ids)
def test_img2img(components, call, message):
    check(SDImg2ImgPipeline(**components), {"prompt": PROMPT, "image": IMAGE, **call}, message)


@pytest.mark.parametrize(("call", "message"), [*IMAGE_CASES, *MASK_CASES, *LATENT_CASES], ids=ids)
def test_inpaint(components, call, message):
    check(SDInpaintPipeline(**components), {"prompt": PROMPT, "image": IMAGE, "mask_image": MASK, **call}, message)


@pytest.mark.parametrize(("call", "message"), [*IMAGE_CASES, *PADDING_CASES], ids=ids)
def test_outpaint(components, call, message):
    check(
        SDOutpaintPipeline(**components), {"prompt": PROMPT, "image": IMAGE, "padding": (5, 0, 0, 0), **call}, message
    )


def test_padding_left_out(components):
    check(SDOutpaintPipeline(**components), {"prompt": PROMPT, "image": IMAGE}, r"`padding` is \(0, 0, 0, 0\)")


def test_latents_of_the_image_and_not_of_the_canvas(components):
    call = {"prompt": PROMPT, "image": IMAGE, "padding": (5, 0, 0, 0), "latents": torch.zeros(1, 4, 8, 8)}
    check(SDOutpaintPipeline(**components), call, r"`latents` is .*\(1, 4, 8, 10\)")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(1, 4, 8, 7), r"`masked_image_latents` is .*\(any, 4, 8, 8\)"),
        (torch.zeros(2, 4, 8, 8), "`masked_image_latents` is 'a list of 2'; it must be one"),
        (torch.full((1, 4, 8, 8), float("inf")), "`masked_image_latents` is 'not finite"),
        (np.zeros((1, 4, 8, 8)), "`masked_image_latents` is ndarray"),
    ],
)
def test_masked_image_latents(components, given, message):
    pipe = SDInpaintPipeline(**{**components, "unet": tiny_unet(in_channels=9)})
    call = {"prompt": PROMPT, "image": IMAGE, "mask_image": MASK, "masked_image_latents": given}
    check(guarded(pipe), call, message)


@pytest.mark.parametrize(
    ("pipeline_class", "added"),
    [
        (SDImg2ImgPipeline, {}),
        (SDInpaintPipeline, {"mask_image": MASK}),
        (SDOutpaintPipeline, {"padding": (5, 0, 0, 0)}),
    ],
)
def test_what_the_model_cannot_do(components, pipeline_class, added):
    call = {"image": IMAGE, **added}
    unconditional = guarded(pipeline_class(unet=tiny_unconditional_unet(), vae=tiny_vae(), scheduler=tiny_scheduler()))
    check(unconditional, {**call, "prompt": PROMPT}, "`prompt` is given, but this model is unconditional")
    check(unconditional, {**call, "image": [IMAGE] * 2}, "`image` is 'a list of 2'; it must be one$")
    other = guarded(pipeline_class(**{**components, "unet": tiny_unet(in_channels=8)}))
    check(other, {**call, "prompt": PROMPT}, "`unet` takes 8 channels, but `vae` makes 4")
    mean = guarded(pipeline_class(**{**components, "scheduler": tiny_scheduler(prediction_type="mean")}))
    mean.scheduler = DDIMScheduler.from_config(mean.scheduler.config)
    check(mean, {**call, "prompt": PROMPT}, "only SDDDPMScheduler can use")


def test_inpainting_unet_in_img2img(components):
    pipe = SDImg2ImgPipeline(**{**components, "unet": inpainting_unet()})
    check(pipe, {"prompt": PROMPT, "image": IMAGE}, "`unet` takes 9 channels: it was trained to inpaint")


def inpainting_unet():
    return guarded(SDInpaintPipeline(**{**tiny_components(), "unet": tiny_unet(in_channels=9)})).unet
