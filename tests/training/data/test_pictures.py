"""From tensors back to pictures."""

from __future__ import annotations

import numpy as np
import torch

from tests.training.configurations import some_digits
from training.data.pictures import to_picture


def test_a_picture_comes_back():
    dataset = some_digits(1)
    assert np.array_equal(to_picture(dataset[0]["pixel_values"]), dataset.source.image(0))


def test_levels_and_places():
    pixel_values = torch.tensor([[[-1.0, 1.0]], [[-7.0, 7.0]], [[0.0, 0.5]]])
    picture = to_picture(pixel_values)
    assert (picture.size, picture.mode) == ((2, 1), "RGB")
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 128), (255, 255, 191)]
