"""What every source of captioned images offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

Caption = str | Sequence[str]
"""One caption, or several of which training draws one each time it sees the image."""


class ImageSource(Protocol):
    """Images with captions, counted from 0."""

    @property
    def captions(self) -> Sequence[Caption]:
        """The caption of each image, or several to choose from."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """Give an image as its file holds it, whatever its mode, size and EXIF orientation."""
        ...

    def name(self, index: int) -> str:
        """Name a sample so that a person finds it: its file, or its row."""
        ...
