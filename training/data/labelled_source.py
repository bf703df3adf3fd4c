"""What every source of labelled images offers, a part of one, and those whose images are files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from training.data.encoded_images import MAX_IMAGE_PIXELS, check_pixel_limit
from training.data.errors import DataError
from training.data.label_images import StoredImage, read_label_map, read_picture
from training.data.label_rules import LabelRules


class LabelledSource(Protocol):
    """Images with label maps, counted from 0."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image | np.ndarray:
        """Give an image whole, upright, with its full range: grey of 16 bits stays so."""
        ...

    def labels(self, index: int) -> np.ndarray:
        """Give the labels of an image: of shape `(height, width)`, its own, int32, at least 0."""
        ...

    def name(self, index: int) -> str:
        """Name a sample so that a person finds it: its file, its page or its row."""
        ...


class LabelledSubset:
    """Some images of a source, in the given order.

    Args:
        source (`LabelledSource`): The whole.
        indices (sequence of `int`): Which of its images, by their indices in the whole.
    """

    def __init__(self, source: LabelledSource, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image | np.ndarray:
        """Give an image of the subset."""
        return self.source.image(self.indices[index])

    def labels(self, index: int) -> np.ndarray:
        """Give the labels of an image of the subset."""
        return self.source.labels(self.indices[index])

    def name(self, index: int) -> str:
        """Name a sample as the whole source names it."""
        return self.source.name(self.indices[index])


class EncodedLabelledSource(ABC):
    """Base of the sources whose images and labels are encoded files or bytes, which may be missing or damaged.

    Args:
        rules (`LabelRules`): What label maps may hold.
        problems (`dict[int, str]`): What is wrong with samples that cannot be used, as far as it is known from the
            listing (no labels, no such file), by index.
        max_image_pixels (`int`, defaults to 100,000,000): Images of more pixels are refused before they are decoded.

    Raises:
        DataError: If `max_image_pixels` is out of range.
    """

    def __init__(self, rules: LabelRules, problems: dict[int, str], max_image_pixels: int = MAX_IMAGE_PIXELS) -> None:
        check_pixel_limit(max_image_pixels)
        self.rules = rules
        self.problems = problems
        self.max_image_pixels = max_image_pixels

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image_file(self, index: int) -> StoredImage:
        """Tell where an image lies."""

    @abstractmethod
    def label_file(self, index: int) -> StoredImage:
        """Tell where the labels of an image lie."""

    def name(self, index: int) -> str:
        """Name a sample by its image."""
        return self.image_file(index).name

    def image(self, index: int) -> Image.Image:
        """Decode an image, upright, in the mode that it has.

        Raises:
            DataError: If it is missing, damaged or too large.
        """
        return read_picture(self.image_file(index), self.max_image_pixels)

    def labels(self, index: int) -> np.ndarray:
        """Decode the labels of an image: of shape `(height, width)`, int32, at least 0.

        Raises:
            DataError: If they are missing, damaged or too large, or are not what the rules allow.
        """
        file = self.label_file(index)
        labels = read_label_map(file, self.max_image_pixels)
        try:
            return self.rules.apply(labels)
        except DataError as error:
            raise DataError(f"{file.name}: {error}") from error


class LabelledFiles(EncodedLabelledSource):
    """Pairs of files, or of pages of files.

    Args:
        pairs (sequence of pairs of `StoredImage`): Each image and its labels.
        rules (`LabelRules`): What label maps may hold.
        problems (`dict[int, str]`): What is wrong with pairs that cannot be used, by index.
        max_image_pixels (`int`, defaults to 100,000,000): Images of more pixels are refused.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[StoredImage, StoredImage]],
        rules: LabelRules,
        problems: dict[int, str],
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        super().__init__(rules, problems, max_image_pixels)
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def image_file(self, index: int) -> StoredImage:
        """Tell where an image lies."""
        return self.pairs[index][0]

    def label_file(self, index: int) -> StoredImage:
        """Tell where the labels of an image lie."""
        return self.pairs[index][1]
