"""Labelled data sets by name: every layout, the splits, and what is refused."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from sd_pipeline.pipelines.segmentation_inputs import read_images
from tests.training.data.image_folders import cut, write_metadata
from tests.training.data.label_files import grey_image, label_map, save, save_labels, save_stack, write_pairs
from tests.training.data.test_labelled_rows import table
from training.config import DataConfig
from training.data.cells import CellsSource
from training.data.errors import DataError
from training.data.labelled_catalogue import load_labelled_source
from training.data.labelled_source import LabelledSource

CHECK = partial(read_images, in_channels=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def load(folder: Path | str, split: str = "train", **options: Any) -> LabelledSource:
    return load_labelled_source(split, dataset=str(folder), check_image=CHECK, **options)


def names(source: LabelledSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def test_the_arguments_are_keys_of_the_data_block() -> None:
    parameters = dict(inspect.signature(load_labelled_source).parameters)
    for name in ("split", "dataset", "num_classes", "seed", "check_image"):
        del parameters[name]
    fields = {field.name: field for field in dataclasses.fields(DataConfig)}
    assert set(parameters) <= set(fields)
    for name in set(parameters) - {"num_samples"}:
        assert parameters[name].default == fields[name].default


def write_named(folder: Path, num_images: int = 3) -> Path:
    for number in range(num_images):
        save(folder / f"{number}.png", grey_image(number))
        save_labels(folder / f"{number}-mask.png", number)
    write_metadata(folder, [{"file_name": f"{n}.png", "label": f"{n}-mask.png"} for n in range(num_images)])
    return folder


def write_stacks(folder: Path, split: str = "train", num_pages: int = 3) -> Path:
    save_stack(folder / f"{split}-volume.tif", [grey_image(number) for number in range(num_pages)])
    save_stack(folder / f"{split}-labels.tif", [label_map(number).astype(np.uint8) for number in range(num_pages)])
    return folder


def write_tables(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    table().to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    return folder


def write_saved(folder: Path) -> Path:
    table().save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("write", [write_pairs, write_named, write_stacks, write_tables, write_saved])
def test_every_layout_gives_the_same_samples(tmp_path: Path, write: Any) -> None:
    source = load(write(tmp_path / "data set"))
    for number in range(3):
        assert np.array_equal(np.asarray(source.image(number)), grey_image(number))
        labels = source.labels(number)
        assert np.array_equal(labels, label_map(number))
        assert labels.dtype == np.int32
    assert len(load(tmp_path / "data set", "validation")) == 0


@pytest.mark.parametrize("write", [write_pairs, write_named])
def test_splits_in_subfolders(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "train", 3)
    write(tmp_path / "validation", 2)
    assert (len(load(tmp_path)), len(load(tmp_path, "validation"))) == (3, 2)
    assert all(str(tmp_path / "validation") in name for name in names(load(tmp_path, "validation")))
    with pytest.raises(DataError, match=r"^data\.validation_fraction is 0\.1; allowed for .*: 0 \(it has held-out"):
        load(tmp_path, validation_fraction=0.1)


def test_splits_of_stacks_and_tables(tmp_path: Path) -> None:
    write_stacks(write_stacks(tmp_path / "stacks"), "validation", 2)
    save_stack(tmp_path / "stacks" / "test-volume.tif", [grey_image()] * 4)
    datasets.DatasetDict({"train": table(), "validation": table(2)}).save_to_disk(str(tmp_path / "tables"))
    for folder in ("stacks", "tables"):
        assert (len(load(tmp_path / folder)), len(load(tmp_path / folder, "validation"))) == (3, 2)
    assert names(load(tmp_path / "stacks"))[2] == f"{tmp_path / 'stacks' / 'train-volume.tif'} page 2"
    assert names(load(tmp_path / "tables", "validation"))[1] == f"{tmp_path / 'tables'} (validation) row 1 (1.png)"


def test_images_are_not_in_a_folder_and_in_its_splits(tmp_path: Path) -> None:
    write_pairs(write_pairs(tmp_path) / "validation", 1)
    with pytest.raises(DataError, match=r" holds images itself and in validation; allowed: one of both$"):
        load(tmp_path)


def test_nobody_trains_on_the_validation_split(tmp_path: Path) -> None:
    write_pairs(tmp_path / "validation", 1)
    assert len(load(tmp_path, "validation")) == 1
    with pytest.raises(DataError, match=r"has no split 'train'; it has: validation$"):
        load(tmp_path)


def test_a_fraction_is_held_out_by_seed(tmp_path: Path) -> None:
    write_pairs(tmp_path, 20)
    train, held_out = (names(load(tmp_path, split, validation_fraction=0.2)) for split in ("train", "validation"))
    assert (len(train), len(held_out)) == (16, 4)
    assert not set(train) & set(held_out)
    assert names(load(tmp_path, "validation", validation_fraction=0.2)) == held_out
    assert names(load(tmp_path, "validation", validation_fraction=0.2, seed=1)) != held_out
    cut(Path(train[5]))
    options: dict[str, Any] = {"validation_fraction": 0.2, "on_bad_sample": "skip"}
    assert names(load(tmp_path, "validation", **options)) == held_out
    assert names(load(tmp_path, **options)) == train[:5] + train[6:]


def test_bad_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_pairs(tmp_path, 3)
    cut(tmp_path / "labels" / "01.png")
    with pytest.raises(DataError, match=r"1 of 3 samples cannot be used: .*labels/01\.png: it cannot be read"):
        load(tmp_path)
    with caplog.at_level(logging.WARNING):
        source = load(tmp_path, on_bad_sample="skip")
    assert names(source) == [str(tmp_path / "images" / f"{number:02d}.png") for number in (0, 2)]
    assert np.array_equal(source.labels(1), label_map(2))
    assert len(caplog.records) == 1


def test_classes_and_masks(tmp_path: Path) -> None:
    write_pairs(tmp_path, 2, num_labels=3)
    source = load(tmp_path, label_type="classes", num_classes=3)
    assert np.array_equal(source.labels(1), label_map(1, num_labels=3))
    with pytest.raises(
        DataError, match=r"labels/00\.png: a class of 2; allowed: 0 to 1, as segmentation\.unet\.num_c"
    ):
        load(tmp_path, label_type="classes")
    for number in range(2):
        save(tmp_path / "labels" / f"{number:02d}.png", label_map(number) > 1)
    assert np.array_equal(load(tmp_path, label_type="classes").labels(0), label_map(0) > 1)
    with pytest.raises(DataError, match=r"^segmentation\.unet\.num_classes is 3; .*: background and object$"):
        load(tmp_path, num_classes=3)


@pytest.mark.parametrize("label_type", ["instances", "classes"])
def test_labels_of_one_class_teach_nothing(tmp_path: Path, label_type: str) -> None:
    write_pairs(tmp_path, 2, num_labels=2)
    save(tmp_path / "labels" / "01.png", np.zeros((18, 24), np.uint8))
    assert len(load(tmp_path, label_type=label_type)) == 2
    save(tmp_path / "labels" / "00.png", np.zeros((18, 24), np.uint8))
    with pytest.raises(DataError, match=r": nothing to learn, as every pixel of all training labels is of class 0; "):
        load(tmp_path, label_type=label_type)


def test_columns_of_other_names(tmp_path: Path) -> None:
    table().rename_columns({"image": "photo", "label": "mask"}).save_to_disk(str(tmp_path / "rows"))
    source = load(tmp_path / "rows", image_column="photo", label_column="mask")
    assert np.array_equal(source.labels(2), label_map(2))
    write_named(tmp_path / "folder")
    with pytest.raises(DataError, match=r"no column 'mask' \(data\.label_column\); it has: file_name, label$"):
        load(tmp_path / "folder", label_column="mask")


def test_cells() -> None:
    train, held_out = (load("cells", split, num_samples=2, seed=3) for split in ("train", "validation"))
    assert isinstance(train, CellsSource)
    assert (len(train), len(held_out)) == (2, 20)
    assert np.array_equal(train.image(1), CellsSource("train", 2, 3).image(1))
    assert not np.array_equal(train.image(0), held_out.image(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.1}, r"^data\.validation_fraction is 0\.1; allowed for 'cells': 0 "),
        ({"dataset_revision": "v1"}, r"^data\.dataset_revision is 'v1'; allowed for cells: null$"),
        ({"dataset_config_name": "x"}, r"^data\.dataset_config_name is 'x'; allowed for cells: null$"),
        ({"label_type": "classes"}, r"^data\.label_type is 'classes'; allowed for cells: 'instances'$"),
        ({"num_samples": 0}, r"^data\.num_samples is 0; allowed for cells: at least 1$"),
    ],
)
def test_what_cells_has_no_use_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("cells", **options)


def test_cells_for_a_network_of_other_channels() -> None:
    with pytest.raises(DataError, match=r"^cells, train image 0: `images` is 'of 1 channels'; it must be of 2"):
        load_labelled_source("train", dataset="cells", check_image=partial(read_images, in_channels=2))


@pytest.mark.parametrize("dataset", ["digits", "shapes", "emoji"])
def test_data_sets_without_labels(dataset: str) -> None:
    with pytest.raises(DataError, match=f"^data.dataset '{dataset}' has no labels; allowed: 'cells', a folder"):
        load(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, r"^no split 'test'; allowed: train, validation$"),
        ({"validation_fraction": 1.0}, r"^data\.validation_fraction is 1\.0; allowed: at least 0 and below 1$"),
        ({"label_type": "masks"}, r"^data\.label_type is 'masks'; allowed: 'instances', 'classes'$"),
        ({"on_bad_sample": "ignore"}, r"^data\.on_bad_sample is 'ignore'; allowed: 'error', 'skip'$"),
        ({"max_image_pixels": 0}, r"^data\.max_image_pixels is 0; allowed: 1 to "),
        ({"dataset_revision": "v1"}, r"^data\.dataset_revision: 'v1' given, but .* is a folder$"),
        ({"dataset_config_name": "x"}, r"^data\.dataset_config_name: 'x' given, but .* is a folder$"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(write_pairs(tmp_path), **options)


def test_folders_that_are_not_there() -> None:
    with pytest.raises(DataError, match=r"^data\.dataset: './nowhere' is not a folder$"):
        load("./nowhere")


def test_an_empty_folder_tells_what_may_lie_there(tmp_path: Path) -> None:
    expected = (
        r"cannot be loaded \(.*\); allowed: 'cells', a folder \(with metadata\.jsonl .*, or a data set on the Hub$"
    )
    with pytest.raises(DataError, match=expected) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_images_without_labels(tmp_path: Path) -> None:
    save_stack(tmp_path / "test-volume.tif", [grey_image()] * 2)
    with pytest.raises(DataError, match=r"' has images, but no labels; allowed: 'cells', a folder \(with metadata"):
        load(tmp_path)


def test_empty_data_sets(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
    write_metadata(tmp_path / "rows", [])
    for folder in ("pairs", "rows"):
        with pytest.raises(DataError, match=r"' is empty: it has no usable image with labels to train on$"):
            load(tmp_path / folder)
    write_pairs(tmp_path / "all bad", 1)
    cut(tmp_path / "all bad" / "images" / "00.png")
    with pytest.raises(DataError, match=r"' is empty: "):
        load(tmp_path / "all bad", on_bad_sample="skip")
