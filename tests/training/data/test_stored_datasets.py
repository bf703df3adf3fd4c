"""Data sets of the `datasets` library: Parquet, `save_to_disk`, and names that do not exist."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.training.data.image_folders import write_folder, write_image
from training.data.dataset_rows import DatasetRowsSource
from training.data.errors import DataError
from training.data.stored_datasets import find_splits


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def table(num_rows: int = 3, **columns: Any) -> datasets.Dataset:
    images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(num_rows)]
    texts = [f"text {number}" for number in range(num_rows)]
    rows = datasets.Dataset.from_dict({"image": images, "text": texts, **columns})
    return rows.cast_column("image", datasets.Image())


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_save_to_disk(tmp_path: Path) -> None:
    table().save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": table(), "validation": table(2)}).save_to_disk(str(tmp_path / "two"))
    assert list(find_splits(str(tmp_path / "one"))) == ["train"]
    splits = find_splits(str(tmp_path / "two"))
    source = splits["validation"]()
    assert source.captions == ["text 0", "text 1"]
    assert source.image(1).getpixel((0, 0)) == (1, 0, 0)
    assert source.name(1) == f"{tmp_path / 'two'} (validation) row 1 (1.png)"


def test_parquet(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    table().to_parquet(str(tmp_path / "data" / "train-00000-of-00001.parquet"))
    table(2).to_parquet(str(tmp_path / "data" / "validation-00000-of-00001.parquet"))
    (tmp_path / "README.md").write_text("A data set.")
    write_image(tmp_path / "example.png")
    splits = find_splits(str(tmp_path))
    assert {split: len(read()) for split, read in splits.items()} == {"train": 3, "validation": 2}
    assert splits["train"]().image(2).getpixel((0, 0)) == (2, 0, 0)


def test_image_folders_with_splits(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 3)
    write_folder(tmp_path / "validation", 2)
    splits = find_splits(str(tmp_path))
    assert {split: len(read()) for split, read in splits.items()} == {"train": 3, "validation": 2}


def test_columns_of_other_names_and_lists_of_captions() -> None:
    rows = table().rename_columns({"image": "photo", "text": "old"}).add_column("said", [["a", "b"], ["c"], ["d"]])
    source = DatasetRowsSource(rows, "mine", "photo", "said")
    assert source.captions == [["a", "b"], ["c"], ["d"]]
    assert source.image(0).size == (12, 10)


def test_raw_bytes_and_paths(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    held = datasets.Dataset.from_dict({"image": [encoded(5)], "text": ["a"]})
    assert DatasetRowsSource(held, "bytes").image(0).getpixel((0, 0)) == (5, 0, 0)
    told = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")], "text": ["a"]})
    assert DatasetRowsSource(told, "paths").image(0).size == (40, 30)


def test_other_columns_are_not_decoded() -> None:
    rows = table().add_column("mask", [{"bytes": b"rubbish", "path": None}] * 3)
    rows = rows.cast_column("mask", datasets.Image())
    assert DatasetRowsSource(rows, "mine").image(0).size == (12, 10)


def test_a_source_can_be_pickled() -> None:
    source = pickle.loads(pickle.dumps(DatasetRowsSource(table(), "mine")))
    assert np.asarray(source.image(2))[0, 0].tolist() == [2, 0, 0]


def test_rows_without_image_or_caption() -> None:
    rows = datasets.Dataset.from_dict(
        {"image": [None, {"bytes": encoded(1), "path": None}], "text": ["a", None]},
        features=datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")}),
    )
    source = DatasetRowsSource(rows, "mine")
    assert source.problem(0, verify=False) == "mine row 0: it has no image"
    assert source.problem(1, verify=False) == "mine row 1: it has no caption"
    with pytest.raises(DataError, match=r"^mine row 0: it has no image$"):
        source.image(0)


def test_missing_columns_are_named_with_those_that_exist() -> None:
    with pytest.raises(DataError, match=r"^mine: no column 'img' \(data\.image_column\); it has: image, text$"):
        DatasetRowsSource(table(), "mine", image_column="img")
    with pytest.raises(DataError, match=r"^mine: no column 'words' \(data\.caption_column\); it has: image, text$"):
        DatasetRowsSource(table(), "mine", caption_column="words")


def test_a_column_that_holds_no_images() -> None:
    with pytest.raises(DataError, match=r"column 'label' \(data\.image_column\) holds Value\('int64'\), not images"):
        DatasetRowsSource(table(label=[1, 2, 3]), "mine", image_column="label")


@pytest.mark.parametrize("dataset", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_paths_that_do_not_exist(dataset: str) -> None:
    with pytest.raises(DataError, match=f"^data.dataset: '{dataset}' is not a folder$"):
        find_splits(dataset)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("")
    with pytest.raises(DataError, match=r"a.zip' is not a folder$"):
        find_splits(str(tmp_path / "a.zip"))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"cannot be loaded .*; allowed: 'digits', 'shapes', 'emoji', a folder"
    ) as caught:
        find_splits(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_revision_and_configuration_are_refused_where_there_are_none(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(DataError, match=r"^data\.dataset_revision: 'v1' given, but .* is a folder$"):
        find_splits(str(tmp_path), dataset_revision="v1")
    with pytest.raises(DataError, match=r"^data\.dataset_config_name: 'small' given, but .* is a folder$"):
        find_splits(str(tmp_path), dataset_config_name="small")


def test_a_name_that_the_hub_does_not_have() -> None:
    program = "from training.data.stored_datasets import find_splits; find_splits('nobody/nothing')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("training.data.errors.DataError: data.dataset: 'nobody/nothing' cannot be loaded (")
    assert last.endswith(
        "allowed: 'digits', 'shapes', 'emoji', a folder with captioned images, or a data set on the Hub"
    )
