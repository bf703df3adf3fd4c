"""Colour emoji of the system's font, about 3,600 pictures, with their Unicode names and keywords as captions."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.emoji_font import EmojiFont, find_emoji_font
from training.data.errors import DataError
from training.data.image_source import Caption
from training.engine.random_streams import stream_key

NAMES_FILE = Path(__file__).with_name("emoji_names.tsv")
"""Code points, name and keywords of every emoji up to Unicode 14; what a newer font has beyond it is left out."""

DRAWING_VERSION = 1
"""To be raised when the pictures are drawn in another way: latents of older ones are then refused."""

_ONE_IN = 20
_SKIN_TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}
_WITHOUT_GENDER = str.maketrans("👨👩", "🧑🧑", "♀♂")


class EmojiSource:
    """Emoji of the system's font, each on a white square.

    One emoji in twenty is held out, with all its skin tones and genders: what validation sees is no variant of what
    training saw. Pictures that a font has twice, under several names, are taken once.

    Args:
        split (`str`): `"train"` or `"validation"`.
        resolution (`int`): Side of the pictures, in pixels.

    Attributes:
        characters (`list[str]`): What is drawn.
        captions (`list[Caption]`): The name, and the name with keywords: `"rocket"`, `"rocket, launch, space"`.

    Raises:
        DataError: If there is no such split, or no font of colour emoji.
    """

    def __init__(self, split: str, resolution: int) -> None:
        if split not in ("train", "validation"):
            raise DataError(f"emoji has no split {split!r}; allowed: train, validation")
        self.split = split
        self.font = find_emoji_font()
        drawn = _draw_all(self.font.file, resolution)
        captions = read_names()
        self.characters = [emoji for emoji in drawn if is_held_out(emoji) == (split == "validation")]
        self.captions = [captions[emoji] for emoji in self.characters]
        self._pictures = drawn

    def __len__(self) -> int:
        return len(self.characters)

    def image(self, index: int) -> Image.Image:
        """Give the picture of an emoji."""
        return Image.fromarray(self._pictures[self.characters[index]])

    def image_size(self, index: int) -> tuple[int, int]:
        """Give width and height of a picture."""
        height, width, _ = self._pictures[self.characters[index]].shape
        return width, height

    def name(self, index: int) -> str:
        """Name an emoji by its code points."""
        return f"emoji {' '.join(f'U+{ord(one):04X}' for one in self.characters[index])}"

    def fingerprint(self) -> str:
        """Give the split, the hash of the font and the version of the drawing."""
        return f"emoji, split {self.split}, font {self.font.fingerprint()}, drawing {DRAWING_VERSION}"


def read_names() -> dict[str, Caption]:
    """Read the captions of all emoji that have a name.

    Returns:
        `dict[str, Caption]`: By the characters of an emoji, its name, or that and the name with keywords.
    """
    captions: dict[str, Caption] = {}
    for line in NAMES_FILE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            codes, name, keywords = line.split("\t")
            characters = "".join(chr(int(code, 16)) for code in codes.split())
            captions[characters] = [name, f"{name}, {keywords}"] if keywords else name
    return captions


def is_held_out(emoji: str) -> bool:
    """Tell whether an emoji is for validation: a function of the emoji alone, and the same for all its variants.

    Args:
        emoji (`str`): Its characters.
    """
    stem = "".join(one for one in emoji.translate(_WITHOUT_GENDER) if one not in _SKIN_TONES).strip("\u200d") or emoji
    return stream_key(0, "emoji", stem) % _ONE_IN == 0


@cache
def _draw_all(file: Path, resolution: int) -> dict[str, np.ndarray]:
    font = EmojiFont(file)
    drawn: dict[str, np.ndarray] = {}
    seen: set[bytes] = set()
    for emoji in read_names():
        picture = font.draw(emoji)
        if picture is None:
            continue
        content = hashlib.sha256(picture.tobytes()).digest()
        if content not in seen:
            seen.add(content)
            drawn[emoji] = np.asarray(picture.resize((resolution, resolution), Image.Resampling.LANCZOS))
    return drawn
