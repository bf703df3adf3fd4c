"""Weight maps, each computed once and kept in a file that is named after what it was made of."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from training.tasks.weight_map import border_weight_map

# To be raised when the maps are computed otherwise.
_VERSION = 1


class WeightMapCache:
    """Computes the border term of weight maps, or reads it where it has been computed before.

    Args:
        folder (`Path`): Where the files are; made when it is needed. Processes may share it.
        w_0 (`float`): Weight of a border of no width.
        sigma (`float`): How fast it falls, in pixels.
        instances (callable): Makes cells of labels, `(height, width)` integers both.
    """

    def __init__(self, folder: Path, w_0: float, sigma: float, instances: Callable[[np.ndarray], np.ndarray]) -> None:
        self.folder = folder
        self.w_0 = w_0
        self.sigma = sigma
        self.instances = instances

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Give w_0 exp(-(d_1 + d_2)^2 / (2 sigma^2)) of all pixels, without the weights of classes.

        Args:
            labels (`np.ndarray` of shape `(height, width)`): Integers.

        Returns:
            `np.ndarray` of this shape, float32, at least 0.
        """
        if self.w_0 == 0:
            return np.zeros(labels.shape, dtype=np.float32)
        cells = self.instances(labels)
        file = self._file(cells)
        if file.is_file():
            found: np.ndarray = np.load(file, allow_pickle=False)
            return found
        border = border_weight_map(cells, 0.0, self.w_0, self.sigma)
        _save(border, file)
        return border

    def _file(self, cells: np.ndarray) -> Path:
        numbers = np.ascontiguousarray(cells, dtype=np.int64)
        made_of = f"{_VERSION} {self.w_0} {self.sigma} {cells.shape}".encode()
        return self.folder / f"{hashlib.blake2b(made_of + numbers.tobytes(), digest_size=16).hexdigest()}.npy"


def _save(border: np.ndarray, file: Path) -> None:
    """Write a file so that other processes see it whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".partial", delete=False) as aside:
        np.save(aside, border)
    os.replace(aside.name, file)
