"""How long a visitor waits: from the command `sd-pipeline demo` to its page, and from there to the first picture.

    PYTHONPATH=. python benchmarks/demo_start.py

It needs the extra `dev` and Debian's `chromium`, whose start counts among the seconds of the page.
"""

from __future__ import annotations

import time

from tests.demo import browser


def main() -> None:
    """Start the page, open it, press the button, and tell the seconds."""
    moments = [time.monotonic()]
    with browser.served("-m", "sd_pipeline.cli", "demo") as address:
        moments.append(time.monotonic())
        with browser.opened(address, height=900) as page:
            moments.append(time.monotonic())
            browser.press(page, "text_to_image")
            browser.made(page, num_images=1)
            moments.append(time.monotonic())
    names = ("the page is served", "a browser has opened it", "the first picture is there")
    for name, before, after in zip(names, moments, moments[1:], strict=False):
        print(f"{name:<28}{after - before:6.1f} s")


if __name__ == "__main__":
    main()
