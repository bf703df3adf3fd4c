from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from sd_pipeline import SDInpaintPipeline, SDPipeline
from sd_pipeline.demo.generation import Settings, Studio
from tests.components import tiny_components, tiny_unconditional_unet, tiny_unet
from tests.pictures import as_picture, generator, hole, picture

SETTINGS = Settings(
    prompt="a red circle", negative_prompt="", seed=4, num_inference_steps=2, guidance_scale=3.0, num_images=2
)
INPUTS = {
    "text_to_image": {},
    "image_to_image": {"image": picture(), "strength": 0.5},
    "inpaint": {"image": picture(), "mask_image": as_picture(hole())},
    "outpaint": {"image": picture(), "padding": (0, 0, 8, 0)},
}


def ignore(step: int, num_steps: int) -> None:
    pass


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(SDPipeline(**tiny_components(), recommended_call={"num_inference_steps": 3}))


def test_tasks_share_their_components(studio):
    for pipeline in studio.pipelines.values():
        assert all(pipeline.components[name] is one for name, one in studio.pipeline.components.items())


def test_pictures_are_those_of_the_python_call(studio):
    images = studio.make("inpaint", SETTINGS, ignore, **INPUTS["inpaint"])
    expected = SDInpaintPipeline(**tiny_components())(
        "a red circle",
        **INPUTS["inpaint"],
        num_inference_steps=2,
        guidance_scale=3.0,
        num_images_per_prompt=2,
        generator=[generator(4), generator(5)],
    ).images
    for image, wanted in zip(images, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(wanted))


@pytest.mark.parametrize("task", INPUTS)
def test_every_step_is_told(studio, task):
    steps = []
    settings = replace(SETTINGS, num_images=1, num_inference_steps=None)
    (image,) = studio.make(task, settings, lambda *step: steps.append(step), **INPUTS[task])
    num_steps = 1 if task == "image_to_image" else 3
    assert steps == [(step + 1, num_steps) for step in range(num_steps)]
    assert image.size == ((40, 32) if task == "outpaint" else (32, 32))


def test_a_call_that_is_given_up_leaves_the_model_usable(studio):
    def stop(step: int, num_steps: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        studio.make("text_to_image", replace(SETTINGS, num_inference_steps=50), stop)
    assert len(studio.make("text_to_image", SETTINGS, ignore)) == 2


def test_calls_at_the_same_time_do_not_mix(studio):
    """They share a scheduler, which knows one sequence of timesteps."""
    made = {}

    def make(steps: int) -> None:
        made[steps] = studio.make("text_to_image", replace(SETTINGS, num_inference_steps=steps, num_images=1), ignore)

    threads = [threading.Thread(target=make, args=(steps,)) for steps in (2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for steps, (image,) in made.items():
        settings = replace(SETTINGS, num_inference_steps=steps, num_images=1)
        (alone,) = studio.make("text_to_image", settings, ignore)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(alone))


def test_models_without_prompts_are_not_given_any():
    components = {**tiny_components(), "unet": tiny_unconditional_unet(), "text_encoder": None, "tokenizer": None}
    images = Studio(SDPipeline(**components)).make("text_to_image", SETTINGS, ignore)
    assert len(images) == 2


def test_inpainting_models_only_paint():
    studio = Studio(SDPipeline(**{**tiny_components(), "unet": tiny_unet(in_channels=9)}))
    assert list(studio.pipelines) == ["inpaint", "outpaint"]
    assert len(studio.make("inpaint", SETTINGS, ignore, **INPUTS["inpaint"])) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_images": 9}, "number of pictures is 9; it must be from 1 to 8"),
        ({"num_images": 0}, "number of pictures is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"num_inference_steps": 0}, "`num_inference_steps` is 0"),
        ({"guidance_scale": float("nan")}, "`guidance_scale` is nan"),
    ],
)
def test_bad_settings(studio, changed, message):
    with pytest.raises(ValueError, match=message) as error:
        studio.make("text_to_image", replace(SETTINGS, **changed), ignore)
    assert "\n" not in str(error.value)


def test_a_loaded_model_is_the_one_on_disk(studio, tmp_path):
    studio.pipeline.save_pretrained(tmp_path / "model")
    loaded = Studio.load(str(tmp_path / "model"))
    (image, _), (expected, _) = (one.make("text_to_image", SETTINGS, ignore) for one in (loaded, studio))
    np.testing.assert_allclose(np.asarray(image).astype(int), np.asarray(expected).astype(int), atol=1)
    assert torch.is_grad_enabled()
