"""Streamed data sets: the same samples as a folder's, in any process, and what is told about bad ones."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.training.data.shards import (
    encoded,
    json_of,
    shares,
    tar_members,
    text,
    write_parquet,
    write_parquets,
    write_same_folder,
    write_tar,
    write_tars,
)
from training.data import shard_storage, streamed_images
from training.data.captioned_images import CaptionedImages
from training.data.catalogue import load_captioned_images
from training.data.errors import DataError
from training.data.shard_storage import ShardError
from training.engine.sampling_order import GlobalBatchSampler

SIZES = [9, 14, 3]
TOTAL = sum(SIZES)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(shard_storage, "RETRY_DELAYS", (0.0, 0.0))
    return folder


def load(dataset: Path | str, split: str = "train", **options: Any) -> CaptionedImages:
    return load_captioned_images(split, dataset=str(dataset), resolution=16, **{"streaming": True, **options})


def write(kind: str, folder: Path) -> Path:
    return write_tars(folder, SIZES) if kind == "tar" else write_parquets(folder, SIZES)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_the_samples_are_those_of_a_folder(tmp_path, kind):
    streamed = load(write(kind, tmp_path / "shards"), random_flip=True, center_crop=False)
    folder = write_same_folder(tmp_path / "folder", TOTAL)
    listed = load(folder, streaming=False, random_flip=True, center_crop=False)
    assert len(streamed) == len(listed) == TOTAL
    assert streamed.captions == listed.captions
    for key in [(number + 100, number) for number in range(TOTAL)]:
        a, b = streamed[key], listed[key]
        assert torch.equal(a.pop("pixel_values"), b.pop("pixel_values"))
        assert a == b


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_the_same_images_are_held_out_as_of_a_folder(tmp_path, kind):
    shards, folder = write(kind, tmp_path / "shards"), write_same_folder(tmp_path / "folder", TOTAL)
    for split in ("train", "validation"):
        streamed, listed = (load(x, split, validation_fraction=0.2, streaming=x is shards) for x in (shards, folder))
        assert streamed.captions == listed.captions
        assert [s["caption"] for s in map(streamed.__getitem__, range(len(streamed)))] == listed.captions


def test_the_splits_of_a_folder(tmp_path):
    write_tars(tmp_path, [2, 3])
    write_tars(tmp_path / "validation", [4], "part")
    assert [len(load(tmp_path, split)) for split in ("train", "validation")] == [5, 4]
    with pytest.raises(DataError, match=r"^data\.validation_fraction is 0\.1; allowed for .*: 0"):
        load(tmp_path, validation_fraction=0.1)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_workers_read_what_this_process_reads(tmp_path, kind, context):
    dataset = load(write(kind, tmp_path), shuffle_buffer_size=10)
    sampler = GlobalBatchSampler(dataset.order, 4, 1, 0, 1, 0, 8)
    here = list(DataLoader(dataset, batch_sampler=sampler))
    options = {"num_workers": 2, "multiprocessing_context": context}
    there = list(DataLoader(dataset, batch_sampler=sampler, **options))
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(here, there, strict=True))
    assert [batch["caption"] for batch in here] == [batch["caption"] for batch in there]


def test_an_epoch_reads_each_image_once(tmp_path):
    dataset = load(write_tars(tmp_path, SIZES), shuffle_buffer_size=5, validation_fraction=0.1)
    total = len(dataset)
    for epoch in range(3):
        indices = [dataset.order.index(epoch * total + position, 8) for position in range(total)]
        assert sorted(indices) == list(range(total))
    assert sum(dataset.source.shard_sizes()) == total


def test_the_window_of_parquet_fits_into_memory(tmp_path, monkeypatch):
    write_parquets(tmp_path, [40])
    size = len(encoded(0))
    monkeypatch.setattr(streamed_images, "ROW_GROUP_BYTES", 20 * size)
    dataset = load(tmp_path)
    assert 5 <= dataset.order.window <= 10
    reader = dataset.source.source.row_groups
    for number in range(40):
        dataset[number, dataset.order.index(number, 8)]
        assert sum(group.nbytes for group in reader._groups.values()) <= 20 * size
    assert load(tmp_path, shuffle_buffer_size=3).order.window == 3


def test_other_columns_and_forms_of_parquet(tmp_path):
    captions = [["a", "b"], ["c"], ["d"]]
    write_parquet(tmp_path / "0.parquet", {"photo": [encoded(n) for n in range(3)], "said": captions, "n": [1, 2, 3]})
    dataset = load(tmp_path, image_column="photo", caption_column="said")
    assert dataset.captions == ["a", "b", "c", "d"]
    assert {dataset[number, 0]["caption"] for number in range(20)} == {"a", "b"}
    assert dataset.source.image(2).getpixel((0, 0))[0] == 2


def test_a_data_set_that_is_no_folder(tmp_path):
    """The urls of fsspec, and its versions of files."""
    memory = fsspec.filesystem("memory")
    for shard, numbers in enumerate(shares(SIZES)):
        with fsspec.open(f"memory://far/{shard:03d}.tar", "wb") as file:
            file.write(write_tar(tmp_path / "0.tar", tar_members(numbers)).read_bytes())
    dataset = load("memory://far/{000..002}.tar")
    assert dataset.captions == [text(number) for number in range(TOTAL)]
    assert dataset.source.image(12).getpixel((0, 0))[0] == 12
    assert dataset.source.name(12) == "memory://far/001.tar: 00012.png"
    memory.rm("/far/002.tar")
    with pytest.raises(ShardError, match=r"^memory://far/002\.tar: 00025\.png: .*: the file does not exist"):
        pickle.loads(pickle.dumps(dataset)).source.image(25)


def test_an_index_is_made_once_and_again_when_a_shard_changes(tmp_path, own_cache):
    write_tars(tmp_path, [3, 2])
    first = load(tmp_path)
    (file,) = (own_cache / "sd_pipeline_shards").glob("*.arrow")
    made = file.stat().st_mtime_ns
    assert load(tmp_path).captions == first.captions
    assert file.stat().st_mtime_ns == made
    assert [path.suffix for path in sorted(file.parent.iterdir())] == [".arrow", ".lock"]
    write_tars(tmp_path, [3, 4])
    assert len(load(tmp_path)) == 7
    assert len(load(tmp_path, caption_column="caption")) == 7


def test_a_source_takes_little_when_it_is_pickled(tmp_path):
    dataset = load(write_tars(tmp_path, [50, 50]))
    dataset[0]
    content = pickle.dumps(dataset)
    assert len(content) < 20_000
    assert pickle.loads(content)[3]["caption"] == "text 3"


def test_captions_are_listed_up_to_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.catalogue.MAX_LISTED_CAPTIONS", 4)
    write_tars(tmp_path, [3, 3])
    assert load(tmp_path).captions == [text(number) for number in range(4)]
    dataset = load(tmp_path)
    assert dataset.source.captions[-1] == "text 5"
    assert dataset.source.captions[2:4] == ["text 2", "text 3"]


def test_samples_without_caption_or_image(tmp_path, caplog):
    members = [*tar_members(range(2)), ("a.png", encoded(2)), ("b.txt", b"x"), ("c.png", b"rubbish"), ("c.txt", b"y")]
    write_tar(tmp_path / "0.tar", [*members, *tar_members([3])])
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"data.dataset {str(tmp_path)!r}: 3 of 6 samples cannot be used: {tmp_path}/0.tar: a.png: it has no caption; "
        f"{tmp_path}/0.tar: b: it has no image; it has: txt; {tmp_path}/0.tar: c.png: it is not an image that can be "
        "read (data.on_bad_sample: skip leaves such samples out)"
    )
    dataset = load(tmp_path, on_bad_sample="skip")
    assert dataset.captions == ["text 0", "text 1", "text 3"]
    assert dataset.order.num_samples == 3
    assert [record.message[:8] for record in caplog.records] == ["left out"]
    write_tar(tmp_path / "0.tar", [("a.png", encoded(2))])
    with pytest.raises(DataError, match=r"is empty: it has no usable image$"):
        load(tmp_path, on_bad_sample="skip")


def test_an_unknown_caption_column(tmp_path):
    write_tar(tmp_path / "tar" / "0.tar", [("a.png", encoded(0)), ("a.json", json_of(url="x"))])
    with pytest.raises(DataError, match=r"it has no caption 'text' \(data\.caption_column\); its json has: url"):
        load(tmp_path / "tar")
    write_parquets(tmp_path / "parquet", [2])
    with pytest.raises(DataError, match=r"no column 'said' \(data\.caption_column\); it has: image, text$"):
        load(tmp_path / "parquet", caption_column="said")
    with pytest.raises(DataError, match=r"column 'text' \(data\.image_column\) holds string, not the bytes"):
        load(tmp_path / "parquet", image_column="text")


def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> CaptionedImages:
    """Load ten images of which the sixth is damaged, which is not found beforehand."""
    monkeypatch.setattr("training.data.sample_checks.NUM_STREAMED_IMAGES", 1)
    members = tar_members(range(10))
    members[10] = (members[10][0], encoded(5)[:300])
    return load(write_tar(tmp_path / "shards" / "0.tar", members).parent, **options)


def test_an_image_that_is_found_to_be_damaged_in_training(tmp_path, monkeypatch, caplog):
    dataset = damaged(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"0\.tar: 00005\.png: it cannot be read as an image"):
        dataset[77, 5]
    dataset = damaged(tmp_path, monkeypatch, on_bad_sample="skip")
    sample = dataset[77, 5]
    assert (sample["caption"], sample["index"], sample["sample_number"]) == ("text 6", 6, 77)
    assert "00005.png" in caplog.text
    assert "00006.png takes its place" in caplog.text


def test_cached_latents_are_never_of_another_image(tmp_path, monkeypatch):
    dataset = damaged(tmp_path, monkeypatch, on_bad_sample="skip").unreplaced()
    with pytest.raises(DataError, match=r"00005\.png: it cannot be read as an image"):
        dataset[77, 5]


def test_what_a_latent_cache_asks_for(tmp_path):
    """Another name for other images; sizes."""
    write_tars(tmp_path, SIZES)
    first, fewer = load(tmp_path).source, load(tmp_path, validation_fraction=0.1).source
    assert first.image_size(3) == (16, 16)
    assert first.fingerprint() == load(tmp_path, shuffle_buffer_size=3).source.fingerprint()
    assert fewer.fingerprint() != first.fingerprint()
    write_tars(tmp_path, [9, 14, 4])
    assert load(tmp_path).source.fingerprint() != first.fingerprint()
    assert load(tmp_path).squares().order is not None


def test_what_a_worker_stumbles_over_is_one_line(tmp_path, monkeypatch):
    dataset = damaged(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"^/.*0\.tar: 00005\.png: it cannot be read as an image \([^\n]*\)$"):
        list(DataLoader(dataset, batch_size=10, num_workers=1))
    (tmp_path / "shards" / "0.tar").unlink()
    with pytest.raises(ShardError, match=r"^/.*0\.tar: 00000\.png: [^\n]*: the file does not exist \(any more\)$"):
        list(DataLoader(dataset, batch_size=10, num_workers=1))


def test_a_shard_that_is_cut_changed_or_gone_in_the_middle_of_a_run(tmp_path):
    dataset = load(write_tars(tmp_path, [40]))
    shard = tmp_path / "train-0000.tar"
    dataset[0]
    whole = shard.read_bytes()
    with shard.open("r+b") as file:
        file.truncate(len(whole) // 2)
    with pytest.raises(ShardError, match=r"train-0000\.tar: 00039\.png: .*it was cut since it was indexed$"):
        dataset[39]
    other = pickle.loads(pickle.dumps(dataset))
    with pytest.raises(ShardError, match=r"train-0000\.tar: 00000\.png: .*has changed since it was indexed; run"):
        other[0]
    shard.unlink()
    with pytest.raises(ShardError, match=r"train-0000\.tar: 00000\.png: .*the file does not exist"):
        pickle.loads(pickle.dumps(dataset))[0]


def test_a_parquet_file_that_is_gone(tmp_path):
    dataset = load(write_parquets(tmp_path, [4]))
    for file in tmp_path.rglob("*.parquet"):
        file.unlink()
    other = pickle.loads(pickle.dumps(dataset))
    with pytest.raises(ShardError, match=r"row 2: .*\.parquet: the file does not exist"):
        other[2]


@pytest.mark.parametrize("name", ["0.tar", "0.parquet"])
def test_files_that_are_no_shards(tmp_path, name):
    (tmp_path / name).write_bytes(b"rubbish" * 1000)
    with pytest.raises(DataError, match=rf"{name}: not an? .*file, or cut \("):
        load(tmp_path)


def test_data_that_are_made_here_are_not_streamed():
    with pytest.raises(DataError, match=r"^data\.streaming is true; allowed for 'digits': false"):
        load("digits")


def test_an_interrupted_pass_goes_on(tmp_path, own_cache, monkeypatch):
    """What is indexed of a large data set is not read again after a crash."""
    write_tars(tmp_path, [2, 2, 2])
    broken = tmp_path / "train-0002.tar"
    whole = broken.read_bytes()
    broken.write_bytes(b"x" * len(whole))
    time = broken.stat()
    with pytest.raises(ShardError):
        load(tmp_path)
    (folder,) = (path for path in (own_cache / "sd_pipeline_shards").iterdir() if path.is_dir())
    kept = sorted(folder.iterdir())
    assert [path.name for path in kept] == ["000000.arrow", "000001.arrow"]
    broken.write_bytes(whole)
    os.utime(broken, ns=(time.st_atime_ns, time.st_mtime_ns))
    assert load(tmp_path).captions == [text(number) for number in range(6)]
    assert not folder.exists()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(DataError, match=r"cache/sd_pipeline_shards: .* cannot be written .*HF_DATASETS_CACHE"):
        load(write_tars(tmp_path / "shards", [1]))


def test_the_index_holds_what_numpy_finds(tmp_path):
    index = load(write_tars(tmp_path, SIZES)).source.source.index
    assert len(index) == TOTAL
    np.testing.assert_array_equal(index.starts, [0, 9, 23, 26])
    assert [index.shard_of(number).url[-5] for number in (0, 8, 9, 22, 23, 25)] == ["0", "0", "1", "1", "2", "2"]
    assert json.loads(index.table.schema.metadata[b"shards"])["num_rows"] == SIZES
