"""Against diffusers' StableDiffusionImg2ImgPipeline with the same weights, and against what a caller may rely on."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

from sd_pipeline import SDDDPMScheduler, SDImg2ImgPipeline, SDPipeline
from sd_pipeline.images import to_rgb
from sd_pipeline.pipelines.image_inputs import pad_to_multiple, read_images
from tests.components import tiny_components, tiny_scheduler, tiny_unconditional_unet, tiny_unet, tiny_vae
from tests.pictures import generator, levels, picture
from tests.pipelines.conftest import quiet

PROMPT = "a red circle"
CALL = {"num_inference_steps": 5, "guidance_scale": 4.0}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def img2img(pipe) -> SDImg2ImgPipeline:
    return quiet(SDImg2ImgPipeline.from_pipe(pipe))


@pytest.fixture
def stock(stock_pipe) -> StableDiffusionImg2ImgPipeline:
    return quiet(StableDiffusionImg2ImgPipeline(**stock_pipe.components, requires_safety_checker=False))


def latents_of(pipe, *args, seed: int = 0, **kwargs) -> torch.Tensor:
    return pipe(*args, **{**CALL, "generator": generator(seed), "output_type": "latent", **kwargs}).images


def put_in(scheduler_name: str, *pipes) -> None:
    for pipe in pipes:
        if scheduler_name != "SDDDPMScheduler":
            pipe.scheduler = getattr(diffusers, scheduler_name).from_config(pipe.scheduler.config)


@pytest.mark.parametrize("strength", [1.0, 0.6, 0.3])
@pytest.mark.parametrize(
    ("scheduler_name", "eta"),
    [
        ("SDDDPMScheduler", 0.0),
        ("DDPMScheduler", 0.0),
        ("DDIMScheduler", 0.0),
        ("DDIMScheduler", 0.7),
        ("DPMSolverMultistepScheduler", 0.0),
        ("EulerDiscreteScheduler", 0.0),
        ("EulerAncestralDiscreteScheduler", 0.0),
        ("HeunDiscreteScheduler", 0.0),
        ("PNDMScheduler", 0.0),
        ("LMSDiscreteScheduler", 0.0),
        ("UniPCMultistepScheduler", 0.0),
    ],
)
def test_every_scheduler_gives_the_latents_of_diffusers(img2img, stock, scheduler_name, eta, strength):
    put_in(scheduler_name, img2img, stock)
    call = {"strength": strength, "eta": eta}
    expected = latents_of(stock, PROMPT, picture(), **call)
    assert expected.std() > 0.1
    torch.testing.assert_close(latents_of(img2img, PROMPT, picture(), **call), expected, **CLOSE)


@pytest.mark.parametrize(
    "call",
    [
        {"prompt": [PROMPT, "a blue square"]},
        {"prompt": [PROMPT, "a blue square"], "image": [picture(seed=1), picture(seed=2)]},
        {"prompt": [PROMPT, "x"], "image": [picture(seed=1), picture(seed=2)], "generator": "list"},
        {"num_images_per_prompt": 3},
        {"num_images_per_prompt": 2, "generator": "list"},
        {"negative_prompt": "two small yellow stars"},
        {"prompt": [PROMPT, "x"], "negative_prompt": ["a blue square", ""], "num_images_per_prompt": 2},
        {"guidance_scale": 1.0},
        {"guidance_scale": 0.0, "negative_prompt": "a blue square"},
        {"timesteps": [900, 500, 300, 20]},
        {"timesteps": [900, 500, 300, 20], "strength": 0.5},
        {"num_inference_steps": 7, "strength": 0.29},
        {"image": picture(48, 16)},
        {"image": torch.rand(1, 3, 32, 32, generator=generator(9))},
        {"image": torch.rand(1, 3, 32, 32, generator=generator(9)) * 2 - 1},
        {"image": levels()[None] / 255},
    ],
    ids=lambda call: "-".join(call),
)
def test_every_argument_means_what_it_means_in_diffusers(img2img, stock, call):
    def arguments():
        made = {"prompt": PROMPT, "image": picture(), **call}
        if "generator" in call:
            made["generator"] = [generator(3), generator(4)]
        return made

    torch.testing.assert_close(latents_of(img2img, **arguments()), latents_of(stock, **arguments()), **CLOSE)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_custom_sigmas_are_those_of_diffusers(img2img, stock, strength):
    put_in("EulerDiscreteScheduler", img2img, stock)
    call = {"sigmas": [10.0, 5.0, 2.0, 0.5, 0.1], "strength": strength}
    ours, expected = (latents_of(one, PROMPT, picture(), **call) for one in (img2img, stock))
    torch.testing.assert_close(ours, expected, **CLOSE)


@pytest.mark.parametrize("output_type", ["np", "pt", "pil"])
def test_output_types_are_those_of_diffusers(img2img, stock, output_type):
    call = {**CALL, "image": picture(), "output_type": output_type}
    ours, expected = (one(PROMPT, generator=generator(), **call).images for one in (img2img, stock))
    assert type(ours) is type(expected)
    if output_type == "pil":
        ours, expected = (np.stack([np.asarray(image) for image in images]).astype(int) for images in (ours, expected))
    np.testing.assert_allclose(np.asarray(ours), np.asarray(expected), atol=1 if output_type == "pil" else 1e-4)


def test_embeddings_in_place_of_prompts(img2img, stock):
    embeds, negative = img2img.encode_prompt(PROMPT, "cpu", 1, True, "a blue square")
    from_words = latents_of(img2img, PROMPT, picture(), negative_prompt="a blue square")
    call = {"prompt_embeds": embeds, "negative_prompt_embeds": negative, "image": picture()}
    torch.testing.assert_close(latents_of(img2img, **call), from_words)
    torch.testing.assert_close(latents_of(stock, **call), from_words, **CLOSE)


def test_clip_skip(img2img):
    skipped, _ = img2img.encode_prompt(PROMPT, "cpu", 1, False, clip_skip=1)
    expected = latents_of(img2img, prompt_embeds=skipped, image=picture(), negative_prompt="")
    torch.testing.assert_close(latents_of(img2img, PROMPT, picture(), clip_skip=1), expected)


def test_callback_sees_changes_and_interrupts_as_in_diffusers(img2img, stock):
    def callback(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), pipeline.num_timesteps))
        pipeline._interrupt = step == 1
        return {"latents": tensors["latents"] * 0.9}

    seen: list[tuple[int, int, int]] = []
    call = {"callback_on_step_end": callback, "strength": 0.8}
    ours = latents_of(img2img, PROMPT, picture(), **call)
    ours_seen, seen = seen, []
    torch.testing.assert_close(ours, latents_of(stock, PROMPT, picture(), **call), **CLOSE)
    assert ours_seen == seen
    assert [(step, number) for step, _, number in seen] == [(0, 4), (1, 4)]


def test_no_strength_gives_the_round_trip_of_the_autoencoder(img2img):
    image = picture(33, 47)
    call = {"generator": generator(7), "output_type": "pt", "strength": 0.0}
    made = img2img(PROMPT, image, **call).images
    canvas = pad_to_multiple(read_images(image), 4) * 2 - 1
    with torch.no_grad():
        latents = img2img.vae.encode(canvas).latent_dist.sample(generator(7))
        expected = (img2img.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(made, expected[..., :47, :33])
    assert img2img.num_timesteps == 0


def test_full_strength_remembers_little_and_low_strength_much(img2img):
    put_in("DDIMScheduler", img2img)
    image = picture()
    x_0 = latents_of(img2img, PROMPT, image, strength=0.0)
    distances = [
        float((latents_of(img2img, PROMPT, image, strength=strength, guidance_scale=1.0) - x_0).norm())
        for strength in (0.0, 0.2, 0.6, 1.0)
    ]
    assert distances == sorted(distances)
    assert distances[0] == 0 < distances[1]


@pytest.mark.parametrize("size", [(33, 47), (30, 32), (1, 1), (3, 50)])
@pytest.mark.parametrize("output_type", ["pil", "pt", "np"])
def test_result_has_the_size_of_the_image(img2img, size, output_type):
    images = img2img(PROMPT, picture(*size), num_inference_steps=2, output_type=output_type).images
    shapes = {"pil": lambda: images[0].size, "pt": lambda: images.shape[:1:-1], "np": lambda: images.shape[2:0:-1]}
    assert tuple(shapes[output_type]()) == size


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "EXIF", "I;16"])
def test_pictures_of_all_modes_mean_what_they_look_like(img2img, mode):
    image = picture(20, 28, mode)
    seen = to_rgb(image)
    assert seen.size == (20, 28)
    torch.testing.assert_close(latents_of(img2img, PROMPT, image), latents_of(img2img, PROMPT, seen))


def test_an_image_does_not_depend_on_the_batch_that_it_is_made_in(img2img):
    prompts, images = [PROMPT, "a blue square"], [picture(seed=1), picture(seed=2)]
    generators = [generator(seed) for seed in range(4)]
    together = latents_of(img2img, prompts, images, num_images_per_prompt=2, generator=generators)
    for number in range(4):
        alone = latents_of(img2img, prompts[number // 2], images[number // 2], seed=number)
        torch.testing.assert_close(together[number : number + 1], alone, **CLOSE)


def test_a_tuple_of_generators_is_as_good_as_a_list(pipe, img2img):
    for one, call in ((pipe, {}), (img2img, {"image": picture()})):
        made = [
            latents_of(one, [PROMPT] * 2, generator=kind((generator(1), generator(2))), **call)
            for kind in (list, tuple)
        ]
        assert torch.equal(*made)


def test_images_stay_with_their_prompts(img2img):
    """With several images of a prompt, diffusers pairs prompts with images of others."""
    images = [picture(seed=1), picture(seed=2)]
    latents = latents_of(img2img, [PROMPT] * 2, images, num_images_per_prompt=2, strength=0.0)
    torch.testing.assert_close(latents[0], latents[1])
    torch.testing.assert_close(latents[2], latents[3])
    assert (latents[0] - latents[2]).abs().max() > 0.1


def test_a_scheduler_starts_afresh_after_a_late_start(pipe, img2img):
    put_in("EulerDiscreteScheduler", pipe)
    img2img.scheduler = pipe.scheduler
    before = pipe(PROMPT, generator=generator(), output_type="latent").images
    latents_of(img2img, PROMPT, picture(), strength=0.4)
    torch.testing.assert_close(pipe(PROMPT, generator=generator(), output_type="latent").images, before)


def test_recommended_call_is_the_default(img2img):
    call = {"generator": generator(), "output_type": "latent"}
    expected = latents_of(img2img, PROMPT, picture(), num_inference_steps=3, guidance_scale=4.0)
    torch.testing.assert_close(img2img(PROMPT, picture(), **call).images, expected)


def test_unconditional_model_whose_blocks_cannot_halve_odd_numbers_of_latents():
    pipe = quiet(SDImg2ImgPipeline(unet=tiny_unconditional_unet(), vae=tiny_vae(), scheduler=tiny_scheduler()))
    images = pipe(image=[picture(33, 47), picture(33, 47, seed=1)], batch_size=2, num_inference_steps=3).images
    assert [image.size for image in images] == [(33, 47)] * 2


@pytest.mark.parametrize("takes_prompts", [False, True])
def test_pixel_space(takes_prompts):
    channels = {"in_channels": 3, "out_channels": 3}
    unet = tiny_unet(**channels) if takes_prompts else tiny_unconditional_unet(**channels)
    components = {**tiny_components(), "vae": None} if takes_prompts else {"scheduler": SDDDPMScheduler()}
    pipe = quiet(SDImg2ImgPipeline(**{**components, "unet": unet}))
    call = {"prompt": PROMPT} if takes_prompts else {}
    image = picture(13, 9)
    untouched = pipe(**call, image=image, strength=0.0).images[0]
    np.testing.assert_array_equal(np.asarray(untouched), np.asarray(image))
    assert pipe(**call, image=image, num_inference_steps=4).images[0].size == (13, 9)


def test_bfloat16(repository):
    pipe = quiet(SDImg2ImgPipeline.from_pretrained(repository, dtype=torch.bfloat16))
    for scheduler_class in (SDDDPMScheduler, DDIMScheduler, diffusers.EulerDiscreteScheduler):
        pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config)
        assert latents_of(pipe, PROMPT, picture()).dtype == torch.bfloat16
    assert pipe(PROMPT, picture(33, 47), generator=generator()).images[0].size == (33, 47)


def test_text_to_image_and_back(pipe):
    again = SDPipeline.from_pipe(SDImg2ImgPipeline.from_pipe(pipe))
    assert again.config["recommended_call"] == pipe.config["recommended_call"] != {}
