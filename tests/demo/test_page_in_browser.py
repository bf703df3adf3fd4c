"""The page, as a visitor uses it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from PIL import Image

from sd_pipeline import SDImg2ImgPipeline, SDPipeline
from sd_pipeline.pretrained_models import DEFAULT_MODEL
from tests.demo import browser

pytestmark = pytest.mark.browser

PROMPT = "a small green square on a pink background"
SECONDS_TO_FIRST_PICTURE = 15


@pytest.fixture(scope="module")
def address():
    with browser.served("-m", "sd_pipeline.cli", "demo", "--model", DEFAULT_MODEL) as address:
        yield address


@pytest.fixture
def page(address):
    with browser.opened(address) as page:
        yield page


@pytest.fixture(scope="module")
def pipe():
    return SDPipeline.from_pretrained(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def picture(pipe) -> Image.Image:
    return pipe(PROMPT, generator=torch.Generator().manual_seed(5)).images[0]


@pytest.fixture(scope="module")
def file(picture, tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    picture.save(path)
    return path


def test_first_picture_and_what_is_told_about_the_model(address):
    with browser.opened(address) as page:
        start = time.perf_counter()
        browser.press(page, "text_to_image")
        (image,) = browser.made(page)
        assert time.perf_counter() - start < SECONDS_TO_FIRST_PICTURE
        assert image.shape == (64, 64, 3)
        told = page.inner_text("#model")
    for part in ("shapes-64", "5.6 million parameters", "64x64", "two CPU cores", "3 h 50 min"):
        assert part in told


def test_picture_is_that_of_the_python_call(page, pipe):
    browser.fill(page, prompt=PROMPT, negative_prompt="a large red ring", steps=6, guidance=3, num_images=2)
    browser.fix_seed(page, 11)
    browser.press(page, "text_to_image")
    images = browser.made(page, num_images=2)
    generators = [torch.Generator().manual_seed(seed) for seed in (11, 12)]
    expected = pipe(
        PROMPT,
        negative_prompt="a large red ring",
        num_inference_steps=6,
        guidance_scale=3.0,
        num_images_per_prompt=2,
        generator=generators,
    ).images
    for image, wanted in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image, np.asarray(wanted))
    assert page.inner_text("#status").startswith("Seed 11, 6 steps, ")


def test_image_to_image(page, pipe, picture, file):
    browser.fix_seed(page, 3)
    browser.choose_tab(page, "Image to image")
    browser.upload(page, "image_to_image", file)
    browser.press(page, "image_to_image")
    (image,) = browser.made(page)
    prompt = page.input_value("#prompt textarea")
    changed = SDImg2ImgPipeline.from_pipe(pipe)(
        prompt, picture, strength=0.8, generator=[torch.Generator().manual_seed(3)]
    )
    np.testing.assert_array_equal(image, np.asarray(changed.images[0]))


def test_paint_a_mask_and_inpaint(page, picture, file):
    browser.fill(page, prompt="a large white circle on a navy background")
    browser.choose_tab(page, "Inpaint")
    browser.upload(page, "inpaint", file)
    browser.paint(page)
    browser.press(page, "inpaint")
    (image,) = browser.made(page)
    before = np.asarray(picture)
    changed = (image != before).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert 24 <= rows.min() <= rows.max() < 40, "only where the line was drawn"
    assert changed[28:36, 26:38].mean() > 0.9
    assert 10 < columns.min() <= columns.max() < 54


def test_outpaint_what_was_made(page):
    browser.press(page, "text_to_image")
    (first,) = browser.made(page)
    browser.choose_tab(page, "Outpaint")
    browser.press(page, "outpaint")
    browser.wait_for_error(page, "there is no picture yet")
    page.click("#outpaint_take_over")
    page.wait_for_selector("#outpaint_picture img")
    browser.press(page, "outpaint")
    (image,) = browser.made(page)
    assert image.shape == (64, 96, 3)
    np.testing.assert_array_equal(image[:, :64], first)


def test_cancelled_call_ends_between_two_steps(page):
    """Eight pictures in 1000 steps take minutes; the next call has to wait until they have been given up."""
    browser.fill(page, steps=1000, num_images=8)
    browser.press(page, "text_to_image")
    page.wait_for_selector("#gallery .progress-text:has-text('/1000'), #gallery .meta-text:has-text('/1000')")
    start = time.perf_counter()
    page.click("#cancel")
    page.wait_for_selector("#status:has-text('Cancelled')")
    browser.fill(page, steps=2, num_images=1)
    browser.press(page, "text_to_image")
    browser.made(page)
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"steps": 0}, "`num_inference_steps` is 0; it must be"),
        ({"steps": 2000}, "num_inference_steps"),
        ({"seed": -1}, "the seed is -1"),
    ],
)
def test_bad_settings_are_told_in_one_line(page, settings, line):
    browser.fix_seed(page, 0)
    browser.fill(page, **settings)
    browser.press(page, "text_to_image")
    browser.wait_for_error(page, line)


def test_bad_pictures_are_told_in_one_line(page, tmp_path, file):
    Image.new("L", (1025, 8)).save(tmp_path / "wide.png")
    browser.choose_tab(page, "Image to image")
    browser.upload(page, "image_to_image", tmp_path / "wide.png")
    browser.press(page, "image_to_image")
    browser.wait_for_error(page, "the picture has 1025x8 pixels; it must have at most 1024 on each side")
    browser.choose_tab(page, "Inpaint")
    browser.upload(page, "inpaint", file)
    browser.press(page, "inpaint")
    browser.wait_for_error(page, "nothing is painted yet")
