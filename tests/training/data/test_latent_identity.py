"""A latent cache of other input, and a folder that holds something else, are refused and left as they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.components import tiny_vae
from tests.training.configurations import some_digits
from training.data.captioned_images import CaptionedImages
from training.data.errors import DataError
from training.data.latent_cache import CachedLatents
from training.data.latent_identity import check_cache_folder, claim_cache_folder, fingerprint_of, identify


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expect_refusal(folder: Path, *fragments: str, dataset: CaptionedImages | None = None, vae=None) -> None:
    before = contents(folder) if folder.is_dir() else None
    with pytest.raises(DataError) as caught:
        CachedLatents(dataset or some_digits(5), vae or tiny_vae(), folder)
    assert "\n" not in str(caught.value)
    for fragment in (f"diffusion.latent_cache_dir: {str(folder)!r}", *fragments):
        assert fragment in str(caught.value)
    assert before is None or contents(folder) == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache of five digits."""
    CachedLatents(some_digits(5), tiny_vae(), tmp_path / "latents")
    return tmp_path / "latents"


def test_the_file_says_what_the_cache_is(folder: Path) -> None:
    content = json.loads((folder / "cache.json").read_text())
    assert content.keys() == {"format_version", "fingerprint", "num_images", "latent_shape", "images_per_shard"}
    assert content["fingerprint"] == fingerprint_of(some_digits(5), tiny_vae())
    assert (content["num_images"], content["latent_shape"], content["images_per_shard"]) == (5, [4, 8, 8], 1024)
    assert {path.name for path in folder.iterdir()} == {"cache.json", "shard-00000.safetensors"}


MEND = "remove the folder or take another diffusion.latent_cache_dir"


def test_another_autoencoder_is_refused(folder: Path) -> None:
    expect_refusal(folder, "differing: autoencoder (", MEND, vae=tiny_vae(seed=9))


@pytest.mark.parametrize("dataset", [some_digits(4), some_digits(5, "validation")], ids=["fewer", "other"])
def test_other_images_are_refused(folder: Path, dataset: CaptionedImages) -> None:
    expect_refusal(folder, "differing: data set (data set: 5 images, digits, split train, ", MEND, dataset=dataset)


def test_other_transforms_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    larger = CaptionedImages(some_digits(5).source, 64)
    expect_refusal(folder, "differing: transforms (", "resolution 32", "now resolution 64", MEND, dataset=larger)
    monkeypatch.setattr("training.data.latent_identity.TRANSFORMS_VERSION", 99)
    expect_refusal(folder, "differing: transforms (", "version 99", MEND)


def test_all_that_differs_is_named(folder: Path) -> None:
    expect_refusal(folder, "autoencoder, data set (", dataset=some_digits(6), vae=tiny_vae(seed=9))


def test_data_set_and_transforms_are_checked_before_there_is_an_autoencoder(folder: Path) -> None:
    assert check_cache_folder(folder, fingerprint_of(some_digits(5)))
    assert not check_cache_folder(folder.with_name("new"), fingerprint_of(some_digits(5)))
    with pytest.raises(DataError, match="differing: data set"):
        check_cache_folder(folder, fingerprint_of(some_digits(6)))


def test_another_format_is_refused(folder: Path) -> None:
    file = folder / "cache.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 2}))
    expect_refusal(folder, "format_version 2, not 1", MEND)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"fingerprint": 3}', "\xff"])
def test_a_damaged_description_is_refused(folder: Path, text: str) -> None:
    (folder / "cache.json").write_text(text, encoding="latin-1")
    expect_refusal(folder, "cache.json cannot be read", MEND)


@pytest.mark.parametrize("name", ["thesis.txt", ".git", "shard-00000.safetensors"])
def test_what_holds_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("years of work")
    expect_refusal(tmp_path, f"holds {name!r} but no cache.json")


def test_files_in_the_way_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "link"):
        expect_refusal(folder, "is no folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    expect_refusal(tmp_path, "cannot be written")
    expect_refusal(tmp_path / "below", "cannot be written")
    tmp_path.chmod(0o700)


def test_an_empty_folder_and_what_a_killed_process_left_are_no_hindrance(tmp_path: Path) -> None:
    for name in (".cache.json.4f", "..cache.json.4f.37", ".shard-00000.safetensors.4f"):
        (tmp_path / name).write_text("{")
    CachedLatents(some_digits(5), tiny_vae(), tmp_path)


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_of_two_caches_the_first_has_the_folder(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError("Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    claim_cache_folder(tmp_path, identify(some_digits(5), tiny_vae()))
    before = contents(tmp_path)
    assert list(before) == ["cache.json"]
    with pytest.raises(DataError, match="differing: autoencoder"):
        claim_cache_folder(tmp_path, identify(some_digits(5), tiny_vae(seed=9)))
    assert contents(tmp_path) == before
