"""Every picture stands on the page, whole, with its caption below it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFont

from training.evaluation.contact_sheet import Print, contact_sheet

SIDE = 40


def prints(*colors: str, caption: str = "a word") -> list[Print]:
    return [Print(Image.new("RGB", (8, 8), color), caption) for color in colors]


def count(page: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(page) == color).all(-1).sum())


def test_all_pictures_are_on_the_page():
    sections = [("some", prints("red", "lime", "blue")), ("none", []), ("others", prints("yellow", "cyan"))]
    page = contact_sheet(sections, columns=2, side=SIDE)
    for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)):
        assert count(page, color) == SIDE**2
    assert np.array_equal(page, contact_sheet(sections, columns=2, side=SIDE))


def test_pictures_keep_their_shape():
    wide, tiny = Image.new("RGB", (200, 50), "red"), Image.new("L", (1, 2), 128)
    page = contact_sheet([("", [Print(wide, ""), Print(tiny, "")])], side=SIDE)
    assert count(page, (255, 0, 0)) == SIDE * SIDE // 4
    assert count(page, (128, 128, 128)) >= SIDE * SIDE // 2


def test_long_captions_are_wrapped_and_not_cut():
    words = "a small purple triangle left of a large yellow square on a navy background"
    short, long = (contact_sheet([("", prints("red", caption=text))], side=160) for text in ("a", words))
    assert long.width == short.width
    num_lines = int(np.ceil(ImageFont.load_default(13).getlength(words) / 160))
    assert long.height - short.height >= (num_lines - 1) * 13
    assert (np.asarray(long)[:, 12 + 160 + 12 :] == 255).all(), "nothing stands beside the picture's column"


def test_remarks_are_red():
    plain = contact_sheet([("", prints("white"))])
    marked = contact_sheet([("", [Print(Image.new("RGB", (8, 8), "white"), "a word", "colour, size")])])
    red = np.array((192, 0, 0))
    assert count(plain, tuple(red)) == 0
    assert count(marked, tuple(red)) > 10
