"""Sizes of files, and a code of single pixels, against what is known of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from training.evaluation.code_sizes import PixelHistograms, png_bits, webp_bits


def noise(seed: int, shape: tuple[int, ...] = (16, 16, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_noise_cannot_be_compressed_and_one_colour_can():
    for bits in (png_bits, webp_bits):
        assert bits(Image.fromarray(noise(0, (64, 64, 3)))) > 8 * 64 * 64 * 3
        assert bits(Image.new("RGB", (64, 64), "red")) < 8 * 200


def test_grey_pictures_are_stored_as_grey():
    grey = noise(0, (32, 32))
    picture = Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))
    assert png_bits(picture) < 1.2 * 8 * grey.size
    assert png_bits(picture) == png_bits(Image.fromarray(grey).convert("RGB"))


def test_webp_keeps_every_level():
    picture = Image.fromarray(noise(1))
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=True, quality=100, method=6, exact=True)
    assert 8 * len(file.getvalue()) == webp_bits(picture)
    assert np.array_equal(np.asarray(Image.open(file)), np.asarray(picture))


def test_histograms_are_distributions():
    """The probabilities of all 256 levels of a pixel sum to one."""
    single = PixelHistograms([noise(seed, (1, 1, 1)) for seed in range(5)])
    levels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    assert sum(2.0 ** -single.bits(level) for level in levels) == pytest.approx(1)


def test_what_was_always_so_costs_little():
    always = np.full((4, 4, 3), 7, dtype=np.uint8)
    histograms = PixelHistograms([always] * 1000)
    # (1000 + 1/2) / (1000 + 128), 48 times.
    assert histograms.bits(always) == pytest.approx(-48 * np.log2(1000.5 / 1128))
    with pytest.raises(ValueError, match="no training image to count"):
        PixelHistograms([])
