"""Outpainting: the inside is kept to the bit, and what is larger than the pictures of the training is coherent."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from sd_pipeline import SDDDPMScheduler, SDInpaintPipeline, SDOutpaintPipeline
from sd_pipeline.images import to_rgb
from sd_pipeline.pipelines.image_inputs import extend_images, read_images
from tests.components import tiny_components, tiny_scheduler, tiny_unconditional_unet, tiny_unet, tiny_vae
from tests.pictures import generator, picture
from tests.pipelines.conftest import quiet

PROMPT = "a red circle"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
PADDINGS = [(5, 0, 0, 0), (0, 7, 13, 3), (0, 0, 150, 0), (0, 90, 0, 1)]


@pytest.fixture
def four(pipe) -> SDOutpaintPipeline:
    return quiet(SDOutpaintPipeline.from_pipe(pipe))


@pytest.fixture(params=[4, 9])
def outpaint(request, four) -> SDOutpaintPipeline:
    if request.param == 4:
        return four
    return quiet(SDOutpaintPipeline(**{**four.components, "unet": tiny_unet(in_channels=9)}))


def box(padding, width: int, height: int) -> tuple[slice, slice]:
    return slice(padding[1], padding[1] + height), slice(padding[0], padding[0] + width)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_inside_is_kept_to_the_bit_and_the_size_is_exact(outpaint, padding, strength):
    image = picture(30, 21)
    call = {"strength": strength, "num_inference_steps": 4, "generator": generator(), "guidance_scale": 1.0}
    made = outpaint(PROMPT, image, padding, **call).images[0]
    assert made.size == (padding[0] + 30 + padding[2], padding[1] + 21 + padding[3])
    np.testing.assert_array_equal(np.asarray(made)[box(padding, 30, 21)], np.asarray(image))
    assert outpaint.num_timesteps == int(4 * strength)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "EXIF", "I;16"])
@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_the_inside_is_what_is_seen(four, mode, output_type):
    image, padding = picture(33, 20, mode), (1, 2, 3, 4)
    images = four(PROMPT, image, padding, num_inference_steps=1, output_type=output_type).images
    seen = np.asarray(to_rgb(image))
    if output_type == "pil":
        made = np.asarray(images[0])
    else:
        made = images[0] if output_type == "np" else images[0].permute(1, 2, 0).numpy()
        seen = seen.astype(np.float32) / 255
    assert made.shape == (26, 37, 3)
    np.testing.assert_array_equal(made[box(padding, 33, 20)], seen)


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("scheduler_name", ["DDPMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_in_one_window_it_is_inpainting_of_the_extended_image(four, strength, scheduler_name):
    four.scheduler = getattr(diffusers, scheduler_name).from_config(four.scheduler.config)
    inpaint = quiet(SDInpaintPipeline.from_pipe(four))
    image, padding = picture(23, 26), (8, 0, 1, 6)
    extended, margin = extend_images(read_images(image), padding)
    call = {"strength": strength, "output_type": "pt", "num_inference_steps": 4}
    made = four(PROMPT, image, padding, generator=generator(), **call).images
    assert torch.equal(made, inpaint(PROMPT, extended, margin, generator=generator(), **call).images)


def test_a_window_sees_no_more_latents_than_in_training(four):
    shapes = set()
    handle = four.unet.register_forward_pre_hook(lambda module, inputs: shapes.add(tuple(inputs[0].shape[-2:])))
    try:
        four(PROMPT, picture(32, 20), (0, 3, 40, 0), num_inference_steps=1)
    finally:
        handle.remove()
    assert shapes == {(6, 8)}


def test_windows_in_which_everything_is_known_are_not_asked(four):
    calls = []
    handle = four.unet.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    try:
        four(PROMPT, picture(96, 32), (0, 0, 24, 0), num_inference_steps=1)
    finally:
        handle.remove()
    assert len(calls) == 2, "of 7 windows"


def test_an_image_does_not_depend_on_the_batch_that_it_is_made_in(outpaint):
    prompts, images = [PROMPT, "a blue square"], [picture(30, 32, seed=1), picture(30, 32, seed=2)]
    generators = [generator(seed) for seed in range(4)]
    call = {"padding": (0, 0, 11, 2), "num_inference_steps": 3, "output_type": "pt", "strength": 0.8}
    together = outpaint(prompts, images, num_images_per_prompt=2, generator=generators, **call).images
    for number in range(4):
        alone = outpaint(prompts[number // 2], images[number // 2], generator=generator(number), **call).images
        torch.testing.assert_close(together[number : number + 1], alone, **CLOSE)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_given_latents_are_the_noise(four, strength):
    four.scheduler = diffusers.DDIMScheduler.from_config(four.scheduler.config)
    random = generator(0)
    _, noise = (torch.randn(1, 4, 8, 11, generator=random) for _ in range(2))
    call = {"padding": (0, 0, 11, 0), "strength": strength, "output_type": "latent", "num_inference_steps": 4}
    given = four(PROMPT, picture(), latents=noise, generator=generator(0), **call).images
    torch.testing.assert_close(given, four(PROMPT, picture(), generator=generator(0), **call).images)


def test_low_strength_continues_the_border(four):
    image = torch.full((1, 3, 32, 32), 0.5)
    extended, _ = extend_images(image, (0, 0, 12, 0))
    call = {"generator": generator(), "output_type": "pt", "num_inference_steps": 4}
    made = four(PROMPT, image, (0, 0, 12, 0), strength=0.0, **call).images
    round_trip = four.decode_latents(four.encode_images(extended * 2 - 1, generator()))
    torch.testing.assert_close(made[..., 40:], round_trip[..., 40:], **CLOSE)


def test_the_seam_is_faded_out(four):
    """The step across the border is smaller than that between the image and what was decoded there."""
    image = torch.full((1, 3, 32, 32), 0.9)
    made = four(PROMPT, image, (0, 0, 12, 0), strength=0.0, generator=generator(), output_type="pt").images
    decoded = four.decode_latents(four.encode_images(extend_images(image, (0, 0, 12, 0))[0] * 2 - 1, generator()))
    step = (made[..., 32] - image[..., 31]).abs().mean()
    assert step < 0.5 * (decoded[..., 32] - image[..., 31]).abs().mean()


def test_callback_interrupts(four):
    def callback(pipeline, step, timestep, tensors):
        steps.append(step)
        pipeline._interrupt = step == 1
        return tensors

    steps: list[int] = []
    four(PROMPT, picture(), (5, 0, 0, 0), num_inference_steps=4, callback_on_step_end=callback)
    assert steps == [0, 1]


def test_bfloat16(repository):
    pipe = quiet(SDOutpaintPipeline.from_pretrained(repository, dtype=torch.bfloat16))
    image, padding = picture(33, 20), (0, 7, 13, 3)
    for strength in (1.0, 0.5):
        made = pipe(PROMPT, image, padding, strength=strength, num_inference_steps=2).images[0]
        np.testing.assert_array_equal(np.asarray(made)[box(padding, 33, 20)], np.asarray(image))


@pytest.mark.parametrize("in_channels", [4, 9])
def test_unconditional_model(in_channels):
    unet = tiny_unconditional_unet(in_channels=in_channels)
    pipe = quiet(SDOutpaintPipeline(unet=unet, vae=tiny_vae(), scheduler=tiny_scheduler()))
    image, padding = picture(33, 20), (0, 7, 13, 3)
    made = pipe(image=image, padding=padding, num_inference_steps=2).images[0]
    assert made.size == (46, 30)
    np.testing.assert_array_equal(np.asarray(made)[box(padding, 33, 20)], np.asarray(image))


@pytest.mark.parametrize("sample_size", [8, (8, 16), None])
@pytest.mark.parametrize("takes_prompts", [False, True])
def test_pixel_space(takes_prompts, sample_size):
    channels = {"in_channels": 3, "out_channels": 3, "sample_size": sample_size}
    unet = tiny_unet(**channels) if takes_prompts else tiny_unconditional_unet(**channels)
    components = {**tiny_components(), "vae": None} if takes_prompts else {"scheduler": SDDDPMScheduler()}
    pipe = quiet(SDOutpaintPipeline(**{**components, "unet": unet}))
    call = {"prompt": PROMPT} if takes_prompts else {}
    image, padding = picture(13, 9), (0, 3, 7, 1)
    made = pipe(**call, image=image, padding=padding, num_inference_steps=2).images[0]
    assert made.size == (20, 13)
    np.testing.assert_array_equal(np.asarray(made)[box(padding, 13, 9)], np.asarray(image))
