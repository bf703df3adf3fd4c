"""A picture becomes a square of pixel values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.image_transforms import crop_and_resize, to_pixel_values


def test_the_shorter_side_fills_the_square_and_the_longer_is_cropped() -> None:
    thirds = Image.new("RGB", (30, 10))
    for x, color in enumerate(["red", "lime", "blue"]):
        thirds.paste(color, (10 * x, 0, 10 * x + 10, 10))
    for image, along in ((thirds, 0), (thirds.transpose(Image.Transpose.ROTATE_270), 1)):
        for place, color in ((0.0, (255, 0, 0)), (0.5, (0, 255, 0)), (1.0, (0, 0, 255))):
            position = (place, 0.5) if along == 0 else (0.5, place)
            square = crop_and_resize(image, (10, 10), position)
            assert square.size == (10, 10)
            assert np.array_equal(np.asarray(square), np.broadcast_to(np.uint8(color), (10, 10, 3)))


@pytest.mark.parametrize("size", [(24, 40), (40, 24), (32, 32), (16, 32), (33, 7)])
@pytest.mark.parametrize("of_picture", [(90, 60), (60, 90), (50, 50), (200, 30)])
def test_no_more_is_cropped_than_the_shape_needs(size: tuple[int, int], of_picture: tuple[int, int]) -> None:
    """Levels tell where a pixel was: one axis is kept whole, and what is left of the other is where asked."""
    across, down = np.meshgrid(np.linspace(0, 255, of_picture[0]), np.linspace(0, 255, of_picture[1]))
    picture = Image.fromarray(np.stack([across, down, across], axis=-1).round().astype(np.uint8))
    for place in (0.0, 0.5, 1.0):
        cropped = np.asarray(crop_and_resize(picture, size, (place, place)), dtype=np.float64)
        assert cropped.shape == (size[1], size[0], 3)
        spans = (np.ptp(cropped[..., 0]) / 255, np.ptp(cropped[..., 1]) / 255)
        shares = (size[0] / of_picture[0], size[1] / of_picture[1])
        for axis, (span, share) in enumerate(zip(spans, shares, strict=True)):
            kept = share / max(shares)
            assert abs(span - kept) < 0.2 * kept + 0.01
            middle = cropped[..., axis].mean() / 255
            assert abs(middle - (place * (1 - kept) + kept / 2)) < 0.02


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((128, 128, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(crop_and_resize(Image.fromarray(stripes), (32, 32)), dtype=np.int64)[4:-4, 4:-4]
    assert abs(small - 127.5).max() < 8


def test_crop_is_that_of_the_picture_resized_whole() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    whole = Image.fromarray(noise).resize((48, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(crop_and_resize(Image.fromarray(noise), (32, 32))), np.asarray(whole)[:, 8:40])


def test_a_very_thin_picture_costs_no_more_than_its_square() -> None:
    assert crop_and_resize(Image.new("RGB", (60_000, 1)), (64, 64)).size == (64, 64)


def test_pixel_values_are_exact() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    values = to_pixel_values(Image.fromarray(np.stack([levels, levels.T, 255 - levels], axis=-1)))
    assert values.dtype == torch.float32
    assert values.shape == (3, 16, 16)
    assert values.is_contiguous()
    assert torch.equal(values[0].flatten(), torch.arange(256, dtype=torch.float32) / 127.5 - 1)
    assert (values.min(), values.max()) == (-1, 1)
