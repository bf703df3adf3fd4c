"""The system's font of colour emoji: found, and drawn with."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findSystemFonts
from PIL import Image, ImageDraw, ImageFont, features

from training.data.errors import DataError

FONT_FILES = ("NotoColorEmoji.ttf", "Apple Color Emoji.ttc", "seguiemj.ttf")
"""The fonts of Linux, macOS and Windows; what is there first in this order is taken."""

# Fonts made of pictures have them in one or a few sizes, and are asked for just these: 109 is Noto's, 160 Apple's.
_SIZES = (109, 160, 128)
_HOW_TO_INSTALL = "on Debian and Ubuntu: apt-get install fonts-noto-color-emoji; macOS and Windows come with one"
# No font has a picture of this character.
_UNASSIGNED = "\U0010ffff"


class EmojiFont:
    """A font of colour emoji.

    Args:
        file (`Path`): Its file.

    Attributes:
        file (`Path`): As given.

    Raises:
        DataError: If pictures in colour cannot be drawn with it.
    """

    def __init__(self, file: Path) -> None:
        if not features.check("raqm"):
            raise DataError(
                "data.dataset 'emoji' needs Pillow with Raqm, which joins characters into one picture; its wheels use "
                "it where the library FriBiDi is installed (on Debian and Ubuntu: apt-get install libfribidi0)"
            )
        self.file = file
        self._font = _open(file)
        self._width = self._font.getlength("😀")
        self._missing = np.asarray(self._picture(_UNASSIGNED))

    def draw(self, characters: str) -> Image.Image | None:
        """Draw an emoji on a white square.

        Args:
            characters (`str`): One character, or several that make one picture.

        Returns:
            `PIL.Image.Image`, *optional*: RGB, as large as the font has it; none where the font has no picture, or
            several beside each other.
        """
        if self._font.getlength(characters) > 1.5 * self._width:
            return None
        picture = self._picture(characters)
        if picture.getextrema() == ((255, 255),) * 3 or np.array_equal(np.asarray(picture), self._missing):
            return None
        return picture

    def fingerprint(self) -> str:
        """Hash the file."""
        return _sha256(self.file)

    def _picture(self, characters: str) -> Image.Image:
        left, top, right, bottom = self._font.getbbox(characters)
        side = int(max(right - left, bottom - top, 1))
        picture = Image.new("RGB", (side, side), "white")
        place = ((side - right - left) / 2, (side - bottom - top) / 2)
        ImageDraw.Draw(picture).text(place, characters, font=self._font, embedded_color=True)
        return picture


def find_emoji_font() -> EmojiFont:
    """Find the system's font of colour emoji.

    Raises:
        DataError: If there is none; the message says how to install one.
    """
    found = {Path(file).name: Path(file) for file in sorted(findSystemFonts())}
    for name in FONT_FILES:
        if name in found:
            return EmojiFont(found[name])
    raise DataError(
        "data.dataset 'emoji' is drawn with the system's font of colour emoji, and there is none of "
        f"{', '.join(FONT_FILES)} ({_HOW_TO_INSTALL})"
    )


def _open(file: Path) -> ImageFont.FreeTypeFont:
    for size in _SIZES:
        try:
            font = ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.RAQM)
        except OSError:  # It has no pictures of this size.
            continue
        picture = Image.new("RGB", (2 * size, 2 * size))
        ImageDraw.Draw(picture).text((0, 0), "😀", font=font, embedded_color=True)
        red, _, blue = np.asarray(picture, dtype=np.int64).transpose(2, 0, 1)
        if (red > blue + 50).any():  # It is yellow.
            return font
    raise DataError(f"{file}: no colour emoji can be drawn with this font; another one is needed ({_HOW_TO_INSTALL})")


@cache
def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
