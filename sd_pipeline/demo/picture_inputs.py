"""Pictures that visitors bring: how large they may be, and the mask that a brush leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import gradio as gr
import numpy as np
from gradio.data_classes import FileData
from PIL import Image

from sd_pipeline.images import upright_size

MAX_SIDE = 1024
"""The longest side of a picture, in pixels, that is taken or made."""

_NO_PICTURE = "there is no picture yet: upload one, or take over one that was made"


def read_picture(path: str | None) -> Image.Image:
    """Open an uploaded picture, and decode it only if it is not too large.

    Args:
        path (`str`, *optional*): The file; `None` where nothing was uploaded.

    Returns:
        `PIL.Image.Image`: In its own mode.

    Raises:
        ValueError: If there is none, it is too large, or it cannot be read.
    """
    if path is None:
        raise ValueError(_NO_PICTURE)
    with _opened(path) as picture:
        check_size(*upright_size(picture), "the picture")
        picture.load()
        return picture


def measure_first(editor: gr.ImageEditor) -> gr.ImageEditor:
    """Have Gradio measure what an editor sends before it decodes it, as `read_picture` does.

    Args:
        editor (`gr.ImageEditor`): Changed in place. A subclass would be the way, if Gradio did not write an interface
            file beside the module of each.

    Returns:
        `gr.ImageEditor`: The same. It raises `gr.Error` for pictures that are too large, or are none.
    """
    decode = editor.convert_and_format_image

    def measure_and_decode(file: FileData | bytes | None, **options: Any) -> Any:
        try:
            if file is not None:
                with _opened(file.path if isinstance(file, FileData) else BytesIO(file)) as picture:
                    check_size(*upright_size(picture), "the picture")
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return decode(file, **options)

    editor.convert_and_format_image = measure_and_decode  # type: ignore[method-assign, assignment]
    return editor


def read_painted(edited: dict[str, Any] | None) -> tuple[Image.Image, Image.Image]:
    """Take apart what the brush was used on.

    Args:
        edited (`dict[str, Any]`, *optional*): Of Gradio's `ImageEditor`: `background`, and `layers` in RGBA, whose
            opaque pixels are painted.

    Returns:
        Two `PIL.Image.Image` of one size: the picture, and the mask, white where it was painted.

    Raises:
        ValueError: If there is no picture, it is too large, or nothing was painted.
    """
    background = (edited or {}).get("background")
    if background is None:
        raise ValueError(_NO_PICTURE)
    check_size(background.width, background.height, "the picture")
    mask = np.zeros((background.height, background.width), np.uint8)
    for layer in (edited or {})["layers"]:
        mask = np.maximum(mask, np.asarray(layer.getchannel("A")))
    painted = Image.fromarray(np.where(mask >= 128, 255, 0).astype(np.uint8))
    if painted.getextrema() == (0, 0):
        raise ValueError("nothing is painted yet: draw with the brush over what shall change")
    return background, painted


def check_size(width: int, height: int, what: str) -> None:
    """Check how large a picture is.

    Args:
        width (`int`): In pixels.
        height (`int`): In pixels.
        what (`str`): Which picture, for the message.

    Raises:
        ValueError: If a side is longer than `MAX_SIDE`.
    """
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{what} has {width}x{height} pixels; it must have at most {MAX_SIDE} on each side")


@contextmanager
def _opened(file: str | BytesIO) -> Iterator[Image.Image]:
    """Read the header of a picture: only `load` decodes it."""
    try:
        with Image.open(file) as picture:
            yield picture
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("the file is damaged, or is no picture that can be read") from error
