"""Cached posteriors are those of direct encoding, to the bit, and read from mapped files."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from tests.components import tiny_vae
from tests.training.configurations import some_digits
from training.data import latent_identity
from training.data.captioned_images import CaptionedImages
from training.data.digits import DigitsSource
from training.data.errors import DataError
from training.data.latent_cache import CachedLatents

SHARD = 64


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_identity, "IMAGES_PER_SHARD", SHARD)


@torch.no_grad()
@pytest.mark.parametrize("posterior", ["diagonal", "isotropic"])
def test_moments_are_those_of_direct_encoding(tmp_path: Path, posterior: str) -> None:
    """In batches of 32, as they were encoded into memory before there were files."""
    vae, dataset = tiny_vae(posterior=posterior), some_digits(SHARD + 40)
    cached = CachedLatents(dataset, vae, tmp_path / "latents")
    assert len(cached) == SHARD + 40
    for batch in torch.arange(len(dataset)).split(32):
        pixel_values = torch.stack([dataset[int(index)]["pixel_values"] for index in batch])
        direct = vae.encode(pixel_values).latent_dist
        for row, index in enumerate(batch.tolist()):
            sample = cached[(1000 + index, index)]
            assert sample["latent_mean"].shape == (4, 8, 8)
            assert torch.equal(sample["latent_mean"], direct.mean[row])
            assert torch.equal(sample["latent_std"], direct.std[row])
            assert (sample["index"], sample["sample_number"]) == (index, 1000 + index)
            assert sample["caption"] == dataset.captions[index]


@pytest.mark.parametrize("layout", ["whole", "spread"])
def test_the_deviation_does_not_depend_on_what_it_is_computed_beside(layout: str) -> None:
    """exp of an image's log-variance is that of the batch's, to the bit, wherever it lies in memory."""
    logvar = torch.rand(8, 4, 5, 7) * 50 - 30
    logvar = logvar if layout == "whole" else logvar.transpose(0, 1).contiguous().transpose(0, 1)
    whole = torch.exp(0.5 * logvar)
    assert all(torch.equal(torch.exp(0.5 * logvar[row]), whole[row]) for row in range(8))


def test_nothing_needs_a_gradient_and_nothing_can_be_spoiled(tmp_path: Path) -> None:
    cached = CachedLatents(some_digits(2), tiny_vae(), tmp_path)
    sample = cached[(0, 1)]
    for key in ("latent_mean", "latent_std"):
        assert not sample[key].requires_grad
        sample[key].zero_()
        assert cached[(0, 1)][key].abs().max() > 0


class TwoCaptions(DigitsSource):
    """Digits with two captions each."""

    def __init__(self) -> None:
        super().__init__()
        self.captions = [[caption, caption.upper()] for caption in self.captions[:3]]

    def __len__(self) -> int:
        return len(self.captions)


def test_captions_are_drawn_as_without_a_cache(tmp_path: Path) -> None:
    dataset = CaptionedImages(TwoCaptions(), 32, seed=5)
    cached = CachedLatents(dataset, tiny_vae(), tmp_path)
    drawn = [cached[(number, 1)]["caption"] for number in range(20)]
    assert drawn == [dataset[(number, 1)]["caption"] for number in range(20)]
    assert len(set(drawn)) == 2


@pytest.mark.parametrize("augmentation", [{"random_flip": True}, {"center_crop": False}])
def test_images_that_change_are_refused(tmp_path: Path, augmentation: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="center_crop on, random_flip off"):
        CachedLatents(some_digits(2, **augmentation), tiny_vae(), tmp_path / "latents")
    assert not (tmp_path / "latents").exists()


def same(samples: list) -> list:
    return samples


@pytest.mark.parametrize(
    "start_method",
    ["fork", pytest.param("spawn", marks=pytest.mark.slow)],  # spawn imports everything anew
)
def test_workers_read_the_same(tmp_path: Path, start_method: str) -> None:
    cached = CachedLatents(some_digits(3 * SHARD), tiny_vae(), tmp_path)
    keys = [[(number, (37 * number + part) % len(cached)) for part in range(8)] for number in range(12)]
    expected = [cached[key] for batch in keys for key in batch]
    context = multiprocessing.get_context(start_method)
    loader = DataLoader(cached, batch_sampler=keys, collate_fn=same, num_workers=2, multiprocessing_context=context)
    for read, sample in zip((sample for batch in loader for sample in batch), expected, strict=True):
        assert read["index"] == sample["index"]
        assert torch.equal(read["latent_mean"], sample["latent_mean"])
        assert torch.equal(read["latent_std"], sample["latent_std"])


def test_a_copy_for_another_process_holds_no_latents(tmp_path: Path) -> None:
    cached = CachedLatents(some_digits(SHARD), tiny_vae(), tmp_path)
    before = len(pickle.dumps(cached))
    sample = cached[(0, 5)]
    copied = pickle.loads(pickle.dumps(cached))
    assert len(pickle.dumps(cached)) == before
    assert torch.equal(copied[(0, 5)]["latent_mean"], sample["latent_mean"])


def test_a_cache_that_is_replaced_under_a_run_is_not_used(tmp_path: Path) -> None:
    """Somebody removes the folder and builds another cache in it, before all of its files were looked at."""
    cached = CachedLatents(some_digits(2 * SHARD), tiny_vae(), tmp_path / "latents")
    before = cached[(0, 0)]["latent_mean"]
    shutil.rmtree(tmp_path / "latents")
    CachedLatents(some_digits(2 * SHARD), tiny_vae(seed=9), tmp_path / "latents")
    assert torch.equal(cached[(0, 0)]["latent_mean"], before)
    with pytest.raises(DataError, match="belongs to another latent cache"):
        cached[(0, SHARD)]


def memory(kind: str) -> int:
    """Read how many bytes of this process are of a kind: `RssAnon` is its own, `RssFile` mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind + ":"))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells which memory is of files")
def test_latents_stay_in_their_files(tmp_path: Path) -> None:
    """Reading all of 64 MiB takes none of the memory that only swapping could free."""
    vae = tiny_vae(latent_channels=256)
    cached = CachedLatents(some_digits(8 * SHARD), vae, tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.glob("shard-*"))
    assert size > 64 << 20
    cached[(0, 0)]
    own, mapped = memory("RssAnon"), memory("RssFile")
    for index in range(len(cached)):
        cached[(0, index)]
    assert memory("RssAnon") - own < size / 8
    assert memory("RssFile") - mapped > size / 2
