"""The synthetic micrographs of touching cells as a data set: no download, and any number of images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from training.data.cell_scenes import sample_cells
from training.data.errors import DataError
from training.engine.random_streams import stream_key

IMAGE_SIZE = 256
NUM_VALIDATION_CELLS = 20
CELL_SPLITS = ("train", "validation", "test")
# 60 MB; drawing a micrograph takes 50 ms.
_NUM_KEPT = 192


class CellsSource:
    """Micrographs of 256x256 pixels, grey, with every cell of them as an instance.

    Args:
        split (`str`): `"train"`, `"validation"` or `"test"`: images that the other two never show.
        num_images (`int`): How many micrographs; those of a larger number begin with those of a smaller one.
        seed (`int`, defaults to 0): The seed of the run, which names the series of each split.

    Raises:
        DataError: If there is no such split or no image.
    """

    def __init__(self, split: str, num_images: int, seed: int = 0) -> None:
        if split not in CELL_SPLITS:
            raise DataError(f"cells has no split {split!r}; allowed: {', '.join(CELL_SPLITS)}")
        if num_images < 1:
            raise DataError(f"data.num_samples is {num_images}; allowed for cells: at least 1")
        self.split = split
        self.num_images = num_images
        self.series = seed if split == "train" else stream_key(seed, split)

    def __len__(self) -> int:
        return self.num_images

    def image(self, index: int) -> np.ndarray:
        """Draw a micrograph: of shape `(256, 256)`, uint8."""
        return self._scene(index)[0].copy()

    def labels(self, index: int) -> np.ndarray:
        """Give the cells of a micrograph: of shape `(256, 256)`, int32; 0 is background."""
        return self._scene(index)[1].copy()

    def name(self, index: int) -> str:
        """Name a micrograph by its split and number."""
        return f"cells, {self.split} image {index}"

    def _scene(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < self.num_images:
            raise IndexError(f"{self.name(index)}: there are {self.num_images}")
        return _drawn(self.series, index)


@lru_cache(maxsize=_NUM_KEPT)
def _drawn(series: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene once: every image is asked for again and again."""
    return sample_cells(series, index, IMAGE_SIZE)
