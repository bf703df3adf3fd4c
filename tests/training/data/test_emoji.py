"""The emoji: how the font is found and drawn with, names, and what is held out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path

from training.data import emoji_font
from training.data.catalogue import load_captioned_images
from training.data.emoji import EmojiSource, is_held_out, read_names
from training.data.emoji_font import EmojiFont, find_emoji_font
from training.data.errors import DataError

GRAPES, ROCKET = "🍇", "🚀"


@pytest.fixture(scope="module")
def font() -> EmojiFont:
    """The system's font; a machine without one skips what needs it, but not the one that decides about a change."""
    try:
        return find_emoji_font()
    except DataError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sources(font: EmojiFont) -> dict[str, EmojiSource]:
    return {split: EmojiSource(split, 32) for split in ("train", "validation")}


def test_there_are_thousands_and_one_concept_in_twenty_is_held_out(sources: dict[str, EmojiSource]) -> None:
    train, validation = sources["train"], sources["validation"]
    assert len(train) + len(validation) > 3000
    assert 0.02 < len(validation) / (len(train) + len(validation)) < 0.1
    assert not set(train.characters) & set(validation.characters)


def test_all_variants_of_an_emoji_are_on_one_side() -> None:
    waving = ("👋", "👋🏻", "👋🏿")
    assert len({is_held_out(emoji) for emoji in waving}) == 1
    pilots = ("🧑‍✈", "👩‍✈", "👨‍✈", "👩🏽‍✈")
    assert len({is_held_out(emoji) for emoji in pilots}) == 1
    runners = ("🏃", "🏃‍♀", "🏃🏿‍♂")
    assert len({is_held_out(emoji) for emoji in runners}) == 1
    assert 0.03 < np.mean([is_held_out(chr(code)) for code in range(0x1F300, 0x1F600)]) < 0.08


def test_captions_are_the_name_and_the_name_with_keywords() -> None:
    names = read_names()
    assert names[ROCKET][0] == "rocket"
    assert names[ROCKET][1].startswith("rocket, ")
    assert names["🇯🇵"][0] == "flag: Japan"
    assert names["👋🏿"][0] == "waving hand: dark skin tone"


def test_pictures_are_in_colour_on_white_and_of_the_size_asked_for(
    sources: dict[str, EmojiSource], font: EmojiFont
) -> None:
    for source in sources.values():
        for index in range(0, len(source), 100):
            picture = source.image(index)
            assert (picture.mode, picture.size) == ("RGB", (32, 32))
            assert source.image_size(index) == (32, 32)
    grapes = np.asarray(font.draw(GRAPES), dtype=np.int64)
    assert (grapes[0, 0] == 255).all()
    drawn = grapes[(grapes < 250).any(axis=-1)]
    red, green, blue = drawn.mean(axis=0)
    assert red > green < blue, "grapes are purple"


def test_no_picture_comes_twice(sources: dict[str, EmojiSource]) -> None:
    pictures = [source.image(index).tobytes() for source in sources.values() for index in range(len(source))]
    assert len(set(pictures)) > 0.995 * len(pictures)  # Some differ in single pixels of the font's size only.


def test_what_the_font_has_no_picture_of_is_none(font: EmojiFont) -> None:
    assert font.draw(ROCKET) is not None
    assert font.draw("\U0010ffff") is None
    assert font.draw(ROCKET + GRAPES) is None, "two pictures beside each other"


def test_a_sequence_is_one_picture(font: EmojiFont) -> None:
    astronaut, person = font.draw("👩‍🚀"), font.draw("👩")
    assert astronaut is not None
    assert person is not None
    assert astronaut.size == person.size
    assert astronaut.tobytes() != person.tobytes()


def test_the_same_in_every_process_and_another_where_the_font_is_another(sources: dict[str, EmojiSource]) -> None:
    assert EmojiSource("train", 32).fingerprint() == sources["train"].fingerprint()
    assert sources["train"].fingerprint() != sources["validation"].fingerprint()
    assert sources["train"].font.fingerprint() in sources["train"].fingerprint()


def test_a_missing_font_says_how_to_install_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emoji_font, "FONT_FILES", ("NoSuchFont.ttf",))
    with pytest.raises(DataError, match=r"there is none of NoSuchFont.ttf .*apt-get install fonts-noto-color-emoji"):
        load_captioned_images("train", dataset="emoji", resolution=32)


def test_a_font_without_colours_is_refused() -> None:
    with pytest.raises(DataError, match=r"DejaVuSans.ttf: no colour emoji can be drawn with this font"):
        EmojiFont(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="emoji has no split 'test'; allowed: train, validation"):
        EmojiSource("test", 16)
