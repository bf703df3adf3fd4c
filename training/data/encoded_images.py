"""Images that are kept as encoded files: opening them within a size limit, decoding them, and finding the bad ones."""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from PIL import Image, ImageFile

from sd_pipeline.images import to_rgb, upright_size
from training.data.errors import DataError
from training.data.image_source import Caption

MAX_IMAGE_PIXELS = 100_000_000
# Above this, Pillow itself refuses to open a picture.
PILLOW_PIXEL_LIMIT = 178_956_970
# Pillow warns from half of its limit on; here `max_image_pixels` decides.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class EncodedImageSource(ABC):
    """Base of the sources whose images are encoded files or bytes, which may be missing, damaged or too large.

    Args:
        captions (sequence of `Caption`): A caption, or several, for each image; `""` where there is none.
        problems (`dict[int, str]`): What is wrong with samples that cannot be used, as far as it is known from the
            listing (no caption, no such file), by index.
        max_image_pixels (`int`): Pictures of more pixels are refused before they are decoded.

    Raises:
        DataError: If `max_image_pixels` is out of range.
    """

    def __init__(self, captions: Sequence[Caption], problems: dict[int, str], max_image_pixels: int) -> None:
        check_pixel_limit(max_image_pixels)
        self.captions = captions
        self.problems = problems
        self.max_image_pixels = max_image_pixels

    def __len__(self) -> int:
        return len(self.captions)

    @abstractmethod
    def encoded(self, index: int) -> str | bytes:
        """Give the path or the bytes of an image's file."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Name a sample so that a person finds it: its file, or its row."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Give a text that is another one where the images are others, the same in every process; captions aside."""

    def image(self, index: int) -> Image.Image:
        """Decode an image, upright and in RGB.

        Raises:
            DataError: If it is missing, damaged or too large.
        """
        try:
            with self._open(index) as opened:
                return to_rgb(opened)
        except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over.
            raise DataError(f"{self.name(index)}: {reading_fault(error)}") from error

    def image_size(self, index: int) -> tuple[int, int]:
        """Read width and height of an image, upright, from its header.

        Raises:
            DataError: If it is missing, too large or no image.
        """
        try:
            with self._open(index) as opened:
                return upright_size(opened)
        except Exception as error:  # As above.
            raise DataError(f"{self.name(index)}: {reading_fault(error)}") from error

    def problem(self, index: int, verify: bool) -> str | None:
        """Tell why a sample cannot be used, without decoding more than is needed to know.

        Args:
            index (`int`): The sample.
            verify (`bool`): Read its whole file; otherwise only the header.

        Returns:
            `str` or `None`: what is wrong, after the sample's name.
        """
        reason = self.problems.get(index)
        if reason is None:
            try:
                with self._open(index) as opened:
                    if verify:
                        _verify(opened)
            except Exception as error:  # As above.
                reason = reading_fault(error)
        return None if reason is None else f"{self.name(index)}: {reason}"

    def _open(self, index: int) -> AbstractContextManager[Image.Image]:
        return open_encoded(self.encoded(index), self.max_image_pixels)


def check_pixel_limit(max_image_pixels: int) -> None:
    """Refuse a limit of pixels that Pillow would not keep.

    Args:
        max_image_pixels (`int`): The limit.

    Raises:
        DataError: If it is out of range.
    """
    if not 0 < max_image_pixels <= PILLOW_PIXEL_LIMIT:
        raise DataError(f"data.max_image_pixels is {max_image_pixels}; allowed: 1 to {PILLOW_PIXEL_LIMIT}")


@contextmanager
def open_encoded(encoded: str | bytes, max_image_pixels: int, page: int = 0) -> Iterator[ImageFile.ImageFile]:
    """Open an image without decoding it, and close it at the end of the block.

    Args:
        encoded (`str` or `bytes`): The path or the bytes of its file.
        max_image_pixels (`int`): Images of more pixels are refused.
        page (`int`, defaults to 0): Which page of the file, from 0.

    Yields:
        `PIL.ImageFile.ImageFile`: the opened image.

    Raises:
        DataError: If it is too large.
        Exception: Whatever Pillow raises of a file that is missing, damaged or no image; `reading_fault` tells of it.
    """
    allowed = f"allowed: {max_image_pixels} in all (data.max_image_pixels)"
    # Of a TIFF file that it opens itself, Pillow maps the pixels into memory, and mixes them up if EXIF turns it.
    with io.BytesIO(encoded) if isinstance(encoded, bytes) else open(encoded, "rb") as file:
        try:
            opened = Image.open(file)
            if page:
                opened.seek(page)
        except Image.DecompressionBombError as error:
            raise DataError(f"too many pixels; {allowed}") from error
        with opened:
            width, height = opened.size
            if width * height > max_image_pixels:
                raise DataError(f"{width} x {height} pixels; {allowed}")
            yield opened


def caption_problem(caption: object) -> str | None:
    """Tell what is wrong with a caption: it must be text, or a list of texts to choose from.

    Args:
        caption: What the caption's column holds.

    Returns:
        `str` or `None`: the fault.
    """
    choices = caption if isinstance(caption, list) else [caption]
    if not choices or any(choice is None or choice == "" for choice in choices):
        return "it has no caption"
    for choice in choices:
        if not isinstance(choice, str):
            return f"its caption is {choice!r}, which is not text"
        if not choice.strip():
            return "its caption is blank"
    return None


def _verify(opened: Image.Image) -> None:
    """Read a whole file as cheaply as its format allows: cut JPEGs show in decoding only, PNGs have checksums."""
    if opened.format == "PNG":
        opened.verify()
    elif opened.format == "JPEG" and opened.mode in ("L", "RGB"):
        opened.draft(opened.mode, (1, 1))  # An eighth of the size: most of the inverse transform is left out.
        opened.load()
    else:
        to_rgb(opened)


def reading_fault(error: Exception) -> str:
    """Tell in words why an image could not be read.

    Args:
        error (`Exception`): What reading it raised.

    Returns:
        `str`: the fault, in one line.
    """
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image that can be read"
    return f"it cannot be read as an image ({' '.join(str(error).split()) or type(error).__name__})"
