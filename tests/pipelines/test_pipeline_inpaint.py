"""Against diffusers' StableDiffusionInpaintPipeline with the same weights, and against what a caller may rely on."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline

from sd_pipeline import SDDDPMScheduler, SDInpaintPipeline
from sd_pipeline.images import to_rgb
from tests.components import tiny_components, tiny_scheduler, tiny_unconditional_unet, tiny_unet, tiny_vae
from tests.pictures import as_picture, checkered_hole, generator, hole, picture
from tests.pipelines.conftest import quiet

PROMPT = "a red circle"
CALL = {"num_inference_steps": 5, "guidance_scale": 4.0}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
MASK = checkered_hole()
KEPT = torch.from_numpy(MASK[::4, ::4] == 0).expand(1, 4, 8, 8)


@pytest.fixture(scope="module")
def inpainting_unet():
    return tiny_unet(in_channels=9)


@pytest.fixture
def four(pipe) -> SDInpaintPipeline:
    return quiet(SDInpaintPipeline.from_pipe(pipe))


@pytest.fixture
def nine(pipe, inpainting_unet) -> SDInpaintPipeline:
    return quiet(SDInpaintPipeline(**{**pipe.components, "unet": inpainting_unet}))


@pytest.fixture(params=[4, 9])
def inpaint(request, four, nine) -> SDInpaintPipeline:
    return four if request.param == 4 else nine


@pytest.fixture
def stock(inpaint) -> StableDiffusionInpaintPipeline:
    return quiet(StableDiffusionInpaintPipeline(**inpaint.components, requires_safety_checker=False))


def latents_of(pipe, prompt=PROMPT, image=None, mask_image=MASK, seed: int = 0, **kwargs) -> torch.Tensor:
    call = {"image": picture() if image is None else image, "mask_image": mask_image, **CALL, **kwargs}
    if isinstance(pipe, StableDiffusionInpaintPipeline):
        call = {"height": 32, "width": 32, **call}
        call["mask_image"] = as_picture(mask_image) if isinstance(mask_image, np.ndarray) else mask_image
    return pipe(prompt, **{"generator": generator(seed), "output_type": "latent", **call}).images


def put_in(scheduler_name: str, *pipes) -> None:
    for pipe in pipes:
        if scheduler_name != "SDDDPMScheduler":
            pipe.scheduler = getattr(diffusers, scheduler_name).from_config(pipe.scheduler.config)


@pytest.mark.parametrize("strength", [1.0, 0.6])
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
        ("UniPCMultistepScheduler", 0.0),
    ],
)
def test_every_scheduler_gives_the_latents_of_diffusers(inpaint, stock, scheduler_name, eta, strength):
    put_in(scheduler_name, inpaint, stock)
    call = {"strength": strength, "eta": eta}
    expected = latents_of(stock, **call)
    assert expected.std() > 0.1
    torch.testing.assert_close(latents_of(inpaint, **call), expected, **CLOSE)


@pytest.mark.parametrize(
    "call",
    [
        {"prompt": [PROMPT, "a blue square"]},
        {"prompt": [PROMPT, "x"], "image": [picture(seed=1), picture(seed=2)], "mask_image": "list"},
        {"prompt": [PROMPT, "x"], "image": [picture(seed=1), picture(seed=2)], "mask_image": "list", "strength": 0.5},
        {"prompt": [PROMPT, "x"], "mask_image": "list"},
        {"prompt": [PROMPT, "x"], "image": [picture(seed=1), picture(seed=2)]},
        {
            "prompt": [PROMPT, "x"],
            "image": [picture(seed=1), picture(seed=2)],
            "mask_image": "list",
            "generator": "list",
        },
        {"num_images_per_prompt": 3},
        {"num_images_per_prompt": 2, "strength": 0.5},
        {"negative_prompt": "two small yellow stars"},
        {"prompt": [PROMPT, "x"], "negative_prompt": ["a blue square", ""], "num_images_per_prompt": 2},
        {"guidance_scale": 1.0},
        {"guidance_scale": 0.0, "strength": 0.4},
        {"timesteps": [900, 500, 300, 20]},
        {"timesteps": [900, 500, 300, 20], "strength": 0.5},
        {"num_inference_steps": 7, "strength": 0.29},
        {"latents": torch.randn(1, 4, 8, 8, generator=generator(5))},
        {"height": 16, "width": 48, "mask_image": as_picture(hole(32, 32, 8, 8, 24, 24))},
        {"image": picture(48, 40), "mask_image": as_picture(hole(48, 40)), "height": 40, "width": 48},
    ],
    ids=lambda call: "-".join(call),
)
def test_every_argument_means_what_it_means_in_diffusers(inpaint, stock, call):
    def arguments():
        made = dict(call)
        if made.get("mask_image") == "list":
            made["mask_image"] = [as_picture(checkered_hole(seed=seed)) for seed in (1, 2)]
        if "generator" in made:
            made["generator"] = [generator(3), generator(4)]
        return made

    torch.testing.assert_close(latents_of(inpaint, **arguments()), latents_of(stock, **arguments()), **CLOSE)


@pytest.mark.parametrize("num_given", [1, 4])
def test_masked_image_latents_of_every_image(nine, num_given):
    stock = quiet(StableDiffusionInpaintPipeline(**nine.components, requires_safety_checker=False))
    masked = torch.randn(num_given, 4, 8, 8, generator=generator(5))
    call = {"prompt": [PROMPT, "x"], "num_images_per_prompt": 2, "masked_image_latents": masked}
    torch.testing.assert_close(latents_of(nine, **call), latents_of(stock, **call), **CLOSE)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_masked_image_latents_in_place_of_the_encoded_ones(nine, strength):
    stock = quiet(StableDiffusionInpaintPipeline(**nine.components, requires_safety_checker=False))
    given = {"masked_image_latents": torch.randn(1, 4, 8, 8, generator=generator(5)), "strength": strength}
    ours = latents_of(nine, **given)
    torch.testing.assert_close(ours, latents_of(stock, **given), **CLOSE)
    assert (ours - latents_of(nine, strength=strength)).abs().max() > 1e-2


def test_embeddings_and_clip_skip(inpaint, stock):
    embeds, negative = inpaint.encode_prompt(PROMPT, "cpu", 1, True, "a blue square", clip_skip=1)
    call = {"prompt": None, "prompt_embeds": embeds, "negative_prompt_embeds": negative}
    expected = latents_of(stock, **call)
    torch.testing.assert_close(latents_of(inpaint, **call), expected, **CLOSE)
    torch.testing.assert_close(latents_of(inpaint, negative_prompt="a blue square", clip_skip=1), expected, **CLOSE)


def test_callback_sees_changes_and_interrupts_as_in_diffusers(inpaint, stock):
    def callback(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), pipeline.num_timesteps))
        pipeline._interrupt = step == 1
        return {"latents": tensors["latents"] * 0.9}

    seen: list[tuple[int, int, int]] = []
    call = {"callback_on_step_end": callback, "strength": 0.8}
    ours = latents_of(inpaint, **call)
    ours_seen, seen = seen, []
    torch.testing.assert_close(ours, latents_of(stock, **call), **CLOSE)
    assert ours_seen == seen
    assert [(step, number) for step, _, number in seen] == [(0, 4), (1, 4)]


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_given_latents_are_the_noise_whatever_the_strength(four, strength):
    """Diffusers takes them for the start of the loop, and ignores the strength."""
    put_in("DDIMScheduler", four)
    random = generator(0)
    if strength < 1 or not four.is_inpainting_model:
        torch.randn(1, 4, 8, 8, generator=random)  # The sample of the autoencoder's posterior.
    noise = torch.randn(1, 4, 8, 8, generator=random)
    torch.testing.assert_close(latents_of(four, latents=noise, strength=strength), latents_of(four, strength=strength))


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0])
def test_known_latents_are_those_of_the_image(four, strength):
    with torch.no_grad():
        known = four.encode_images(four.image_processor.preprocess(picture()), generator(0))
    made = latents_of(four, strength=strength)
    torch.testing.assert_close(made[KEPT], known[KEPT])
    is_moved = bool((made - known)[~KEPT].abs().max() > 0.1)
    assert is_moved == (strength == 1.0), "a share below one step takes none"


@pytest.mark.parametrize("size", [(33, 47), (30, 32), (3, 5)])
@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_kept_pixels_are_those_of_the_image_to_the_bit(inpaint, size, output_type):
    width, height = size
    image, mask = picture(width, height), hole(width, height, 1, 2, max(width // 2, 2), height - 1)
    images = inpaint(PROMPT, image, as_picture(mask), num_inference_steps=2, output_type=output_type).images
    kept, original = mask == 0, np.asarray(image)
    if output_type == "pil":
        made = np.asarray(images[0])
    else:
        made = images[0] if output_type == "np" else images[0].permute(1, 2, 0).numpy()
        original = original.astype(np.float32) / 255
    assert made.shape == (height, width, 3)
    np.testing.assert_array_equal(made[kept], original[kept])
    assert (made[~kept] != original[~kept]).any()


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "EXIF"])
def test_kept_pixels_are_those_that_are_seen(four, mode):
    image, mask = picture(33, 47, mode), hole(33, 47, 4, 5, 30, 41)
    made = four(PROMPT, image, mask, num_inference_steps=1).images[0]
    assert (made.size, made.mode) == ((33, 47), "RGB")
    np.testing.assert_array_equal(np.asarray(made)[mask == 0], np.asarray(to_rgb(image))[mask == 0])


@pytest.mark.parametrize("scheduler_name", ["SDDDPMScheduler", "EulerAncestralDiscreteScheduler"])
@pytest.mark.parametrize(("left", "top"), [(0, 0), (7, 8), (13, 22), (32, 46)])
def test_a_hole_of_one_pixel_is_filled_and_nothing_else_changes(inpaint, scheduler_name, left, top):
    put_in(scheduler_name, inpaint)
    image, mask = torch.full((1, 3, 47, 33), 0.5), hole(33, 47, left, top, left + 1, top + 1)
    made = inpaint(PROMPT, image, mask, num_inference_steps=3, generator=generator(), output_type="pt").images
    changed = (made != image).any(dim=1)[0].numpy()
    np.testing.assert_array_equal(changed, mask == 1)


def test_latents_that_the_mask_covers_in_part_are_free(four):
    mask = hole(32, 32, 7, 8, 9, 9)
    made = latents_of(four, mask_image=mask)
    with torch.no_grad():
        known = four.encode_images(four.image_processor.preprocess(picture()), generator(0))
    free = (made - known).abs().amax(dim=1)[0] > 1e-3
    assert free.nonzero().tolist() == [[2, 1], [2, 2]]


def test_an_inpainting_unet_does_not_see_the_hole(nine):
    """Nor does anything else: the result depends on kept pixels alone."""
    mask = hole(30, 32, 7, 9, 22, 30)
    image, other = picture(30, 32), np.array(picture(30, 32))
    other[mask == 1] = np.random.default_rng(5).integers(0, 256, (int(mask.sum()), 3))
    call = {"num_inference_steps": 2, "output_type": "pt"}
    made, same = (nine(PROMPT, one, mask, generator=generator(), **call).images for one in (image, other))
    assert torch.equal(made, same)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_no_strength_changes_no_more_than_the_autoencoder_does(inpaint, strength):
    image, mask = picture(33, 47), hole(33, 47)
    call = {"strength": strength, "output_type": "pt", "generator": generator(), "num_inference_steps": 4}
    made = inpaint(PROMPT, image, mask, **call).images
    assert inpaint.num_timesteps == 4 * strength
    original = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    kept = torch.from_numpy(mask == 0).expand_as(original)
    assert torch.equal(made[kept], original[kept])
    far_inside = (..., slice(14, 18), slice(13, 15))
    round_trip = inpaint.decode_latents(
        inpaint.encode_images(torch.nn.functional.pad(original * 2 - 1, (0, 3, 0, 1), mode="replicate"), generator())
    )
    is_round_trip = torch.allclose(made[far_inside], round_trip[far_inside], atol=1e-4)
    assert is_round_trip == (strength == 0)


@pytest.mark.parametrize(("height", "width"), [(16, 48), (30, None), (None, 33)])
def test_result_has_the_size_that_is_asked_for(four, height, width):
    image, mask = picture(), as_picture(hole())
    made = four(PROMPT, image, mask, height=height, width=width, num_inference_steps=1).images[0]
    size = (width or 32, height or 32)
    assert made.size == size
    kept = np.asarray(mask.resize(size, 1)) < 128
    np.testing.assert_array_equal(np.asarray(made)[kept], np.asarray(image.resize(size, 1))[kept])


def test_an_image_does_not_depend_on_the_batch_that_it_is_made_in(inpaint):
    prompts, images = [PROMPT, "a blue square"], [picture(33, 47, seed=1), picture(33, 47, seed=2)]
    masks = [hole(33, 47), hole(33, 47, 0, 1, 33, 9)]
    generators = [generator(seed) for seed in range(4)]
    call = {"num_inference_steps": 3, "output_type": "pt", "strength": 0.8}
    together = inpaint(prompts, images, masks, num_images_per_prompt=2, generator=generators, **call).images
    for number in range(4):
        pair = number // 2
        alone = inpaint(prompts[pair], images[pair], masks[pair], generator=generator(number), **call).images
        torch.testing.assert_close(together[number : number + 1], alone, **CLOSE)


def test_images_and_masks_stay_with_their_prompts(four):
    """With several images of a prompt, diffusers pairs prompts with images and masks of others."""
    images, masks = [picture(seed=1), picture(seed=2)], [hole(), hole(32, 32, 0, 0, 4, 9)]
    made = four([PROMPT] * 2, images, masks, num_images_per_prompt=2, num_inference_steps=1, output_type="np").images
    for number in range(4):
        kept = masks[number // 2] == 0
        expected = np.asarray(images[number // 2], np.float32) / 255
        np.testing.assert_array_equal(made[number][kept], expected[kept])


def test_bfloat16(pipe, inpaint, tmp_path):
    inpaint.save_pretrained(tmp_path)
    half = quiet(SDInpaintPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16))
    image, mask = picture(33, 47), hole(33, 47)
    for scheduler_class in (SDDDPMScheduler, diffusers.EulerDiscreteScheduler, diffusers.HeunDiscreteScheduler):
        half.scheduler = scheduler_class.from_config(half.scheduler.config)
        for strength in (1.0, 0.6):
            latents = latents_of(half, image=image, mask_image=mask, strength=strength)
            assert latents.dtype == torch.bfloat16
            assert torch.isfinite(latents).all()
    made = half(PROMPT, image, mask, num_inference_steps=1).images[0]
    np.testing.assert_array_equal(np.asarray(made)[mask == 0], np.asarray(image)[mask == 0])


@pytest.mark.parametrize("in_channels", [4, 9])
def test_unconditional_model(in_channels):
    unet = tiny_unconditional_unet(in_channels=in_channels)
    pipe = quiet(SDInpaintPipeline(unet=unet, vae=tiny_vae(), scheduler=tiny_scheduler()))
    image, mask = picture(33, 47), hole(33, 47)
    made = pipe(image=image, mask_image=mask, batch_size=2, num_inference_steps=2).images
    assert len(made) == 2
    for one in made:
        np.testing.assert_array_equal(np.asarray(one)[mask == 0], np.asarray(image)[mask == 0])


@pytest.mark.parametrize("in_channels", [3, 7])
@pytest.mark.parametrize("takes_prompts", [False, True])
def test_pixel_space(takes_prompts, in_channels):
    channels = {"in_channels": in_channels, "out_channels": 3}
    unet = tiny_unet(**channels) if takes_prompts else tiny_unconditional_unet(**channels)
    components = {**tiny_components(), "vae": None} if takes_prompts else {"scheduler": SDDDPMScheduler()}
    pipe = quiet(SDInpaintPipeline(**{**components, "unet": unet}))
    assert pipe.is_inpainting_model == (in_channels == 7)
    call = {"prompt": PROMPT} if takes_prompts else {}
    image, mask = picture(13, 9), hole(13, 9, 3, 2, 7, 8)
    for strength in (0.0, 0.6, 1.0):
        made = pipe(**call, image=image, mask_image=mask, strength=strength, num_inference_steps=4).images[0]
        np.testing.assert_array_equal(np.asarray(made)[mask == 0], np.asarray(image)[mask == 0])
    assert (np.asarray(made)[mask == 1] != np.asarray(image)[mask == 1]).any()


def test_vae_slicing_and_tiling_are_those_of_the_autoencoder(four):
    image, mask = picture(64, 64), hole(64, 64)
    call = {"num_inference_steps": 1, "output_type": "pt", "num_images_per_prompt": 2}
    expected = four(PROMPT, image, mask, generator=generator(), **call).images
    four.vae.enable_slicing()
    torch.testing.assert_close(four(PROMPT, image, mask, generator=generator(), **call).images, expected, **CLOSE)
    four.vae.disable_slicing()
    four.vae.enable_tiling()
    tiled = four(PROMPT, image, mask, generator=generator(), **call).images
    four.vae.disable_tiling()
    assert tiled.shape == expected.shape
    for name in ("enable_vae_slicing", "enable_vae_tiling"):
        assert hasattr(four, name) == hasattr(StableDiffusionInpaintPipeline, name)
