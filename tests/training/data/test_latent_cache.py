"""Cached posteriors are those of direct encoding."""

from __future__ import annotations

import pytest
import torch

from tests.components import tiny_vae
from tests.training.configurations import some_digits
from training.data.captioned_images import CaptionedImages
from training.data.digits import DigitsSource
from training.data.latent_cache import CachedLatents


@pytest.mark.parametrize("posterior", ["diagonal", "isotropic"])
def test_moments_are_those_of_direct_encoding(posterior):
    vae, dataset = tiny_vae(posterior=posterior), some_digits(10)
    cached = CachedLatents(dataset, vae, batch_size=4)
    assert len(cached) == 10
    for index in range(10):
        with torch.no_grad():
            direct = vae.encode(dataset[index]["pixel_values"][None]).latent_dist
        sample = cached[(1000 + index, index)]
        for key, expected in (("latent_mean", direct.mean[0]), ("latent_std", direct.std[0])):
            assert (sample[key].shape, sample[key].dtype) == ((4, 8, 8), torch.float32)
            torch.testing.assert_close(sample[key], expected, rtol=1e-5, atol=1e-6)
        assert (sample["index"], sample["sample_number"]) == (index, 1000 + index)
        assert sample["caption"] == dataset.captions[index]


def test_nothing_needs_a_gradient():
    sample = CachedLatents(some_digits(2), tiny_vae())[(0, 1)]
    assert not sample["latent_mean"].requires_grad
    assert not sample["latent_std"].requires_grad


class TwoCaptions(DigitsSource):
    """Digits with two captions each."""

    def __init__(self) -> None:
        super().__init__()
        self.captions = [[caption, caption.upper()] for caption in self.captions[:3]]

    def __len__(self) -> int:
        return len(self.captions)


def test_captions_are_drawn_as_without_a_cache():
    dataset = CaptionedImages(TwoCaptions(), 32, seed=5)
    cached = CachedLatents(dataset, tiny_vae())
    drawn = [cached[(number, 1)]["caption"] for number in range(20)]
    assert drawn == [dataset[(number, 1)]["caption"] for number in range(20)]
    assert len(set(drawn)) == 2


@pytest.mark.parametrize("augmentation", [{"random_flip": True}, {"center_crop": False}])
def test_images_that_change_are_refused(augmentation):
    with pytest.raises(ValueError, match="center_crop on, random_flip off"):
        CachedLatents(some_digits(2, **augmentation), tiny_vae())
