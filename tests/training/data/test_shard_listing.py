"""Which files are the shards of a data set, and of which split."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from tests.training.data.image_folders import write_folder
from tests.training.runs import environment
from training.data.errors import DataError
from training.data.shard_listing import expand_braces, find_shards, kind_of


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def names_of(dataset: str | Path) -> dict[str, list[str]]:
    return {split: [Path(s.url).name for s in shards] for split, shards in find_shards(str(dataset)).items()}


def test_splits_are_told_by_names(tmp_path):
    folder = touch(
        tmp_path / "test" / "shards",
        "b.tar",
        "a.tar",
        "validation/c.tar",
        "cc3m-val-001.tar",
        "eval/d.tar",
        "train/e.tar",
    )
    assert names_of(folder) == {
        "train": ["a.tar", "b.tar", "e.tar"],
        "validation": ["cc3m-val-001.tar", "c.tar"],
        "test": ["d.tar"],
    }


def test_what_lies_beside_shards_is_none(tmp_path):
    touch(tmp_path, "0.parquet", "README.md", "example.png", ".hidden/1.parquet", ".2.parquet", "sizes.json")
    assert names_of(tmp_path) == {"train": ["0.parquet"]}
    assert kind_of(find_shards(str(tmp_path))["train"]) == "parquet"


def test_patterns(tmp_path):
    touch(tmp_path / "train", *(f"{number:03d}.tar" for number in range(12)))
    assert names_of(tmp_path / "train" / "{009..011}.tar") == {"train": ["009.tar", "010.tar", "011.tar"]}
    assert names_of(f"file://{tmp_path}/train/00[0-1]*.tar") == {"train": ["000.tar", "001.tar"]}
    assert expand_braces("plain") == ["plain"]
    assert expand_braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]


def test_urls_of_any_file_system(tmp_path):
    memory = fsspec.filesystem("memory")
    for name in ("train/a.tar", "valid/b.tar"):
        memory.pipe(f"/listing/{name}", b"x")
    found = find_shards("memory://listing")
    assert {split: [shard.url for shard in shards] for split, shards in found.items()} == {
        "train": ["memory:///listing/train/a.tar"],
        "validation": ["memory:///listing/valid/b.tar"],
    }
    assert [s.url for s in find_shards("memory://listing/train/a.tar")["train"]] == ["memory://listing/train/a.tar"]


def test_a_version_changes_with_the_content(tmp_path):
    touch(tmp_path, "a.tar")
    (before,) = find_shards(str(tmp_path))["train"]
    assert find_shards(str(tmp_path))["train"] == [before]
    (tmp_path / "a.tar").write_bytes(b"y")
    (after,) = find_shards(str(tmp_path))["train"]
    assert before.version != after.version


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"holds no files; allowed with data\.streaming: a folder, a URL or"),
        (["a.jpg", "metadata.jsonl"], r"holds no shards, but \.jpg, \.jsonl; allowed with data\.streaming"),
        (["a.tar", "b.parquet"], r"holds \.parquet and \.tar files; allowed: one kind$"),
        (
            ["a.tar", "b.tar.gz"],
            r"b\.tar\.gz: compressed, .* by itself; allowed: a plain \.tar$",
        ),
        (["b.tgz"], r"b\.tgz: compressed"),
    ],
)
def test_folders_that_cannot_be_streamed(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message) as caught:
        find_shards(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_an_image_folder(tmp_path):
    with pytest.raises(DataError, match=r"holds no shards, but \.jsonl, \.png"):
        find_shards(str(write_folder(tmp_path)))


@pytest.mark.parametrize("dataset", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_folders_that_do_not_exist(dataset):
    with pytest.raises(DataError, match=f"^data.dataset: '{dataset}' is not a folder; allowed with data.streaming"):
        find_shards(dataset)


def test_files_and_kinds_of_urls_that_do_not_exist(tmp_path):
    with pytest.raises(DataError, match=r"001\.tar: the file does not exist"):
        find_shards(str(touch(tmp_path, "000.tar") / "{000..001}.tar"))
    with pytest.raises(DataError, match=r"^data\.dataset: 'nothing://a/b\.tar' cannot be read \(Protocol not known"):
        find_shards("nothing://a/b.tar")


def test_keys_of_the_hub_are_refused_for_folders(tmp_path):
    with pytest.raises(DataError, match=r"^data\.dataset_revision: 'v1' given, but .* is no name of a data set"):
        find_shards(str(tmp_path), dataset_revision="v1")


def test_a_name_that_the_hub_does_not_have():
    program = "from training.data.shard_listing import find_shards; find_shards('nobody/nothing')"
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("training.data.errors.DataError: data.dataset: 'nobody/nothing' cannot be loaded (")
