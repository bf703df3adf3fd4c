"""A served page and a real browser that looks at it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
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
    page.set_input_files(f"#{task}_picture input[type=file]", path)


def paint(page: Page) -> None:
    """Draw a line from left to right through the middle of the picture, an eighth of its size above the centre."""
    page.wait_for_timeout(2000)
    box = page.locator("#inpaint_picture canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    for step in range(13):
        page.mouse.move(x - 60 + 10 * step, y)
    page.mouse.up()
    page.wait_for_timeout(1000)


def press(page: Page, task: str) -> None:
    """Start a task, once what was shown before is gone."""
    page.evaluate("document.querySelector('#status').dataset.before = document.querySelector('#status').innerText")
    page.click(f"#{task}_button")


def made(page: Page, num_images: int = 1) -> list[np.ndarray]:
    """Wait for the pictures of the call that was started last."""
    page.wait_for_function(
        "(() => { const s = document.querySelector('#status');"
        " return s.innerText.startsWith('Seed') && s.innerText !== s.dataset.before })()"
    )
    page.wait_for_timeout(500)
    shown = page.locator("#gallery .grid-container img")
    assert shown.count() == num_images
    urls = [shown.nth(index).get_attribute("src") for index in range(num_images)]
    return [np.asarray(Image.open(io.BytesIO(page.request.get(url).body())).convert("RGB")) for url in urls]


def wait_for_error(page: Page, text: str) -> None:
    page.wait_for_selector(f".toast-body:has-text('{text}')")
