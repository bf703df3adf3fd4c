"""Peak signal-to-noise ratios against their definition."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import mean_squared_error

from tests.components import tiny_vae
from tests.training.configurations import some_digits
from training.evaluation.reconstruction import psnr, psnr_of_autoencoder, reconstruct


def images(seed: int, num: int = 3) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("error", "decibels"), [(2.0, 0.0), (0.2, 20.0), (0.02, 40.0)])
def test_a_constant_error(error, decibels):
    originals = torch.full((2, 3, 4, 4), -1.0)
    torch.testing.assert_close(psnr(originals + error, originals), torch.full((2,), decibels), rtol=1e-4, atol=1e-4)


def test_it_is_that_of_8_bit_pictures():
    """20 log10(255 / RMSE) of grey levels is the same number as on [-1, 1]."""
    one, other = images(0, 1), images(1, 1)
    levels = [(image.flatten().numpy() + 1) * 127.5 for image in (one, other)]
    expected = 20 * math.log10(255 / math.sqrt(mean_squared_error(*levels)))
    assert float(psnr(one, other)) == pytest.approx(expected, abs=1e-4)


def test_it_is_clipped_symmetric_and_finite():
    one, other = images(0), images(1)
    torch.testing.assert_close(psnr(one, other), psnr(other, one))
    torch.testing.assert_close(psnr(one.sign() * 7, one.sign()), psnr(one, one))
    assert torch.isfinite(psnr(one, one)).all()
    assert (psnr(one, one) > 100).all()


def test_reconstruction_goes_through_the_mode_of_the_posterior():
    vae = tiny_vae()
    pixel_values = images(0, 33)  # More than are sent at a time.
    with torch.no_grad():
        expected = vae.decode(vae.encode(pixel_values).latent_dist.mean).sample
    torch.testing.assert_close(reconstruct(vae, pixel_values), expected, rtol=1e-4, atol=1e-5)
    assert reconstruct(vae.to(torch.bfloat16), pixel_values).dtype == torch.float32


def test_an_autoencoder_is_measured_on_all_images():
    vae, dataset = tiny_vae(), some_digits(5, "validation")
    originals = torch.stack([dataset[index]["pixel_values"] for index in range(5)])
    expected = psnr(reconstruct(vae, originals), originals).mean()
    assert psnr_of_autoencoder(vae, dataset) == pytest.approx(float(expected))
