"""Take the screenshot of the web page that the README shows: four pictures of the first prompt.

    PYTHONPATH=. python benchmarks/demo_screenshot.py [docs/demo.png]

It needs the extra `dev` and Debian's `chromium`. The seed is fixed, so the pictures are the same each time.
"""

from __future__ import annotations

import sys

from tests.demo import browser


def main(path: str = "docs/demo.png") -> None:
    """Drive the page as a visitor would, and write what is seen."""
    with browser.served("-m", "sd_pipeline.cli", "demo") as address, browser.opened(address, height=900) as page:
        browser.fill(page, num_images=4)
        browser.fix_seed(page, 0)
        browser.press(page, "text_to_image")
        browser.made(page, num_images=4)
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(1000)
        page.screenshot(path=path)


if __name__ == "__main__":
    main(*sys.argv[1:])
