"""A page of pictures with a caption under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_MARGIN = 12
_TEXT_SIZE = 13
_LINE_HEIGHT = 17
_TITLE_SIZE = 20
_TITLE_HEIGHT = 36
_PAPER, _INK, _WARNING = "white", "black", "#c00000"


@dataclass(frozen=True, slots=True)
class Print:
    """One picture of a page.

    Args:
        picture (`PIL.Image.Image`): The picture.
        caption (`str`): What stands under it.
        remark (`str`, defaults to `""`): What stands under that, in red.
    """

    picture: Image.Image
    caption: str
    remark: str = ""


def contact_sheet(sections: Sequence[tuple[str, Sequence[Print]]], columns: int = 8, side: int = 160) -> Image.Image:
    """Draw a page.

    Args:
        sections (sequence of `tuple[str, Sequence[Print]]`): A title each, and the pictures below it.
        columns (`int`, defaults to 8): Pictures side by side.
        side (`int`, defaults to 160): Longer side of a picture on the page, in pixels.

    Returns:
        `PIL.Image.Image`: RGB.
    """
    font, title_font = ImageFont.load_default(_TEXT_SIZE), ImageFont.load_default(_TITLE_SIZE)
    width = columns * (side + _MARGIN) + _MARGIN
    bands = []
    for title, prints in sections:
        heading = Image.new("RGB", (width, _TITLE_HEIGHT), _PAPER)
        ImageDraw.Draw(heading).text((_MARGIN, _MARGIN // 2), title, _INK, title_font)
        rows = [prints[first : first + columns] for first in range(0, len(prints), columns)]
        bands += [heading, *(_row(row, side, width, font) for row in rows)]
    page = Image.new("RGB", (width, _MARGIN + sum(band.height for band in bands)), _PAPER)
    top = _MARGIN
    for band in bands:
        page.paste(band, (0, top))
        top += band.height
    return page


def _row(
    prints: Sequence[Print], side: int, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> Image.Image:
    captions = [_wrapped(item.caption, side, font) for item in prints]
    remarks = [_wrapped(item.remark, side, font) for item in prints]
    num_lines = max(len(caption) + len(remark) for caption, remark in zip(captions, remarks, strict=True))
    pictures = [_enlarged(item.picture, side) for item in prints]
    height = max(picture.height for picture in pictures)
    band = Image.new("RGB", (width, height + num_lines * _LINE_HEIGHT + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(band)
    for number, (picture, caption, remark) in enumerate(zip(pictures, captions, remarks, strict=True)):
        left, top = _MARGIN + number * (side + _MARGIN), height + _MARGIN // 3
        band.paste(picture, (left, 0))
        for line, color in [(line, _INK) for line in caption] + [(line, _WARNING) for line in remark]:
            draw.text((left, top), line, color, font)
            top += _LINE_HEIGHT
    return band


def _enlarged(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a text into lines that are not wider than a picture, unless a word is."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
