"""What is left of a streamed source without bad and held-out samples, and the order that training reads it in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from training.data.fingerprints import digest
from training.data.image_source import Caption, LazyCaptions
from training.data.streamed_images import StreamedImageSource
from training.engine.windowed_order import WindowedOrder


class RemainingSamples:
    """All samples of a source but some, in its order, without a list of them.

    Args:
        source (`StreamedImageSource`): The whole.
        left_out (`numpy.ndarray` of int64): Sorted indices of what is left out.

    Attributes:
        captions (sequence of `Caption`): Their captions, read when they are asked for.
    """

    def __init__(self, source: StreamedImageSource, left_out: np.ndarray) -> None:
        self.source = source
        self.left_out = left_out
        # Samples that remain before each one that is left out.
        self._before = left_out - np.arange(len(left_out))
        self.captions = _RemainingCaptions(self)

    def __len__(self) -> int:
        return len(self.source) - len(self.left_out)

    def index_in_source(self, index: int) -> int:
        """Return the index in the whole source."""
        return index + int(np.searchsorted(self._before, index, side="right"))

    def image(self, index: int) -> Image.Image:
        """Read an image."""
        return self.source.image(self.index_in_source(index))

    def name(self, index: int) -> str:
        """Name a sample as the whole source names it."""
        return self.source.name(self.index_in_source(index))

    def image_size(self, index: int) -> tuple[int, int]:
        """Read width and height of an image."""
        return self.source.image_size(self.index_in_source(index))

    def fingerprint(self) -> str:
        """Give the whole's fingerprint with the indices that are left out."""
        return f"{self.source.fingerprint()}, without {digest(self.left_out.tolist())}"

    def shard_sizes(self) -> list[int]:
        """Count the samples that remain of each shard."""
        starts = self.source.index.starts
        sizes: list[int] = np.diff(starts - np.searchsorted(self.left_out, starts)).tolist()
        return sizes

    def order(self, window: int, seed: int) -> WindowedOrder:
        """Make the order to read the samples in.

        Args:
            window (`int`): Positions that are shuffled together; fewer where the source cannot jump so far.
            seed (`int`): The seed of the run.
        """
        longest = self.source.longest_window()
        return WindowedOrder(self.shard_sizes(), window if longest is None else min(window, longest), seed)


class _RemainingCaptions(LazyCaptions):
    def __init__(self, samples: RemainingSamples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def caption(self, index: int) -> Caption:
        """Read the caption of a sample."""
        return self.samples.source.captions[self.samples.index_in_source(index)]

    def __iter__(self) -> Iterator[Caption]:
        left_out = iter(self.samples.left_out.tolist())
        following = next(left_out, None)
        for index, caption in enumerate(self.samples.source.captions):
            if index == following:
                following = next(left_out, None)
            else:
                yield caption
