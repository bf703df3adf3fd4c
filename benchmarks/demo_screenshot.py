"""Take the screenshot of the web page that the README shows: a picture that was repainted where a brush was drawn.

    PYTHONPATH=. python benchmarks/demo_screenshot.py [docs/demo.png]

It needs the extra `dev` and Debian's `chromium`. Seeds are fixed, so the pictures are the same each time.
"""

from __future__ import annotations

import sys

from tests.demo import browser


def main(path: str = "docs/demo.png") -> None:
    """Drive the page as a visitor would, and write what is seen."""
    with browser.served("-m", "sd_pipeline.cli", "demo") as address, browser.opened(address, height=980) as page:
        browser.fill(page, prompt="a large red star on a navy background")
        browser.fix_seed(page, 1)
        browser.press(page, "text_to_image")
        browser.made(page)
        browser.choose_tab(page, "Inpaint")
        page.click("#inpaint_take_over")
        browser.paint(page)
        browser.fill(page, prompt="a large yellow circle on a navy background", num_images=4)
        browser.press(page, "inpaint")
        browser.made(page, num_images=4)
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(1000)
        page.screenshot(path=path)


if __name__ == "__main__":
    main(*sys.argv[1:])
