"""What every source of captioned images offers, and a part of a source."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, overload

from PIL import Image

from training.data.fingerprints import digest

Caption = str | Sequence[str]
"""One caption, or several of which training draws one each time it sees the image."""


class LazyCaptions(Sequence[Caption]):
    """Captions that are read when they are asked for; a subclass says how many there are, and reads one."""

    @abstractmethod
    def caption(self, index: int) -> Caption:
        """Read the caption of a sample, counted from 0."""

    @overload
    def __getitem__(self, index: int) -> Caption: ...

    @overload
    def __getitem__(self, index: slice) -> list[Caption]: ...

    def __getitem__(self, index: int | slice) -> Caption | list[Caption]:
        numbers = range(len(self))[index]
        return self.caption(numbers) if isinstance(numbers, int) else [self.caption(number) for number in numbers]


class ImageSource(Protocol):
    """Images with captions, counted from 0."""

    @property
    def captions(self) -> Sequence[Caption]:
        """The caption of each image, or several to choose from."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """Give an image whole, upright and in RGB."""
        ...

    def image_size(self, index: int) -> tuple[int, int]:
        """Give width and height of an image, as `image` gives it, without decoding it."""
        ...

    def name(self, index: int) -> str:
        """Name a sample so that a person finds it: its file, or its row."""
        ...

    def fingerprint(self) -> str:
        """Give a text that is another one where the images are others, the same in every process; captions aside."""
        ...


class SourceSubset:
    """Some images of a source, in the given order.

    Args:
        source (`ImageSource`): The whole.
        indices (sequence of `int`): Which of its images, by their indices in the whole.

    Attributes:
        captions (`list[Caption]`): Their captions.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = list(indices)
        self.captions = [source.captions[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        """Give an image of the subset."""
        return self.source.image(self.indices[index])

    def image_size(self, index: int) -> tuple[int, int]:
        """Give width and height of an image of the subset."""
        return self.source.image_size(self.indices[index])

    def name(self, index: int) -> str:
        """Name a sample as the whole source names it."""
        return self.source.name(self.indices[index])

    def fingerprint(self) -> str:
        """Give the whole's fingerprint with the indices."""
        return f"{self.source.fingerprint()}, indices {digest(self.indices)}"
