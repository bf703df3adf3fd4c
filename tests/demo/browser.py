"""A served page and a real browser that looks at it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
TIMEOUT = 120_000
"""Milliseconds in which anything has happened, on a busy machine too."""


@contextmanager
def served(*command: str, folder: Path | None = None, **variables: str) -> Iterator[str]:
    """Run Python with a command that serves a page, and yield the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if "http://" in line:
                yield line.split()[-1]
                return
        raise AssertionError(f"the page was not served:\n{printed}")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def opened(address: str, width: int = 1280, height: int = 1100) -> Iterator[Page]:
    """Open a page in headless Chromium, and check that it asks nobody but its own server for anything."""
    if not Path(CHROMIUM).exists():
        raise FileNotFoundError(f"{CHROMIUM} is missing: apt-get install chromium")
    asked = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(TIMEOUT)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#prompt textarea", state="attached")
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def choose_tab(page: Page, label: str) -> None:
    page.click(f"button[role=tab]:has-text('{label}')")


def fill(page: Page, **values: object) -> None:
    """Fill in fields by the ids of their components; after them, that of the seed decides."""
    for name, value in values.items():
        field = page.locator(f"#{name} textarea, #{name} input[type=number]").first
        field.fill(str(value))
        field.press("Tab")


def fix_seed(page: Page, seed: int) -> None:
    page.uncheck("#is_random input[type=checkbox]")
    fill(page, seed=seed)


def upload(page: Page, task: str, path: Path) -> None:
    """Choose a file, and wait until its picture is there; for inpainting, until the brush is at hand too."""
    picture = f"#{task}_picture"
    if task == "inpaint":
        # The editor takes files before its two canvases are ready, and loses them.
        page.locator(f"{picture} canvas").nth(1).wait_for(state="attached")
    page.set_input_files(f"{picture} input[type=file]", path)
    page.wait_for_selector(f"{picture} button[aria-label='Brush Size']" if task == "inpaint" else f"{picture} img")


def paint(page: Page) -> None:
    """Draw a horizontal line through the middle of the picture, and wait until it is seen."""
    box = page.locator("#inpaint_picture canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    # Without a GPU, every stop takes a browser up to seconds.
    page.mouse.move(x + 60, y, steps=4)
    page.mouse.up()
    centre = {"x": x - 2, "y": y - 2, "width": 4, "height": 4}
    until = time.monotonic() + TIMEOUT / 1000
    while (_pixels(page.screenshot(clip=centre)) != 255).any():
        assert time.monotonic() < until, "no line was drawn"
        page.wait_for_timeout(100)


def press(page: Page, task: str) -> None:
    """Start a task, once it is marked what stands on the page from before."""
    page.evaluate(
        """() => {
            const status = document.querySelector('#status');
            status.dataset.before = status.innerText;
            document.querySelectorAll('.toast-body').forEach(error => { error.dataset.before = 'yes' });
        }"""
    )
    page.click(f"#{task}_button")


def made(page: Page, num_images: int = 1) -> list[np.ndarray]:
    """Wait for the pictures of the call that was started last, or for the error that it shows instead."""
    error = page.wait_for_function(
        """() => {
            const status = document.querySelector('#status'), told = status.innerText;
            if (told.startsWith('Seed') && told !== status.dataset.before) return 'none';
            return document.querySelector('.toast-body:not([data-before])')?.innerText;
        }"""
    ).json_value()
    assert error == "none"
    page.wait_for_timeout(500)
    shown = page.locator("#gallery .grid-container img")
    shown.nth(num_images - 1).wait_for()
    assert shown.count() == num_images
    urls = [shown.nth(index).get_attribute("src") for index in range(num_images)]
    return [_pixels(page.request.get(url).body()) for url in urls]


def _pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def wait_for_error(page: Page, text: str) -> None:
    page.wait_for_selector(f".toast-body:has-text('{text}')")
