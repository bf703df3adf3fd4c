"""What a run's `data` block loads, for training and for validation."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.image_folders import cut, write_folder, write_metadata
from training.config import DataConfig
from training.data.captioned_images import CaptionedImages
from training.data.catalogue import load_captioned_images
from training.data.errors import DataError
from training.data.shape_scenes import split_of
from training.data.shapes import ShapesSource


def test_the_arguments_are_the_keys_of_the_data_block() -> None:
    parameters = inspect.signature(load_captioned_images).parameters
    fields = {field.name: field for field in dataclasses.fields(DataConfig)}
    assert set(parameters) - {"split", "seed"} == set(fields) - {
        "dataloader_num_workers",
        "label_column",
        "label_type",
    }
    for name, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty and name != "seed":
            field = fields[name]
            is_made = field.default_factory is not dataclasses.MISSING
            default = tuple(field.default_factory()) if is_made else field.default
            assert parameter.default == default, name


def names(images: CaptionedImages) -> list[str]:
    return [images.source.name(index) for index in range(len(images))]


def test_digits() -> None:
    assert len(load_captioned_images("train", dataset="digits", resolution=32)) == 1438
    assert len(load_captioned_images("validation", dataset="digits", resolution=32)) == 359


def test_shapes_train_on_seen_scenes_and_validate_on_fresh_ones() -> None:
    train = load_captioned_images("train", dataset="shapes", resolution=48, num_samples=40, seed=3)
    fresh = load_captioned_images("validation", dataset="shapes", resolution=48, num_samples=40, seed=3)
    assert isinstance(train.source, ShapesSource)
    assert isinstance(fresh.source, ShapesSource)
    assert (len(train), len(fresh)) == (40, 1000)
    assert train.source.image(0).size == (48, 48)
    for source in (train.source, fresh.source):
        assert {split_of(source.scene(index)) for index in range(len(source))} == {"seen"}
    centers = [
        {source.scene(index).objects[0].center for index in range(len(source))}
        for source in (train.source, fresh.source)
    ]
    assert not centers[0] & centers[1]


def test_a_fraction_is_held_out_by_seed(tmp_path: Path) -> None:
    write_folder(tmp_path, 20)
    data: dict[str, Any] = {"dataset": str(tmp_path), "resolution": 16, "validation_fraction": 0.2}
    train, held_out = (names(load_captioned_images(split, **data)) for split in ("train", "validation"))
    assert (len(train), len(held_out)) == (16, 4)
    assert set(train) | set(held_out) == {str(tmp_path / f"{number:02d}.png") for number in range(20)}
    assert names(load_captioned_images("validation", **data)) == held_out
    assert names(load_captioned_images("validation", **data, seed=1)) != held_out


def test_the_held_out_images_do_not_depend_on_bad_ones(tmp_path: Path) -> None:
    write_folder(tmp_path, 20)
    data: dict[str, Any] = {"dataset": str(tmp_path), "resolution": 16, "validation_fraction": 0.2}
    held_out, train = (names(load_captioned_images(split, **data)) for split in ("validation", "train"))
    cut(Path(train[5]))
    data["on_bad_sample"] = "skip"
    assert names(load_captioned_images("validation", **data)) == held_out
    assert names(load_captioned_images("train", **data)) == train[:5] + train[6:]


def test_nothing_is_held_out_unless_asked_for(tmp_path: Path) -> None:
    write_folder(tmp_path, 5)
    assert len(load_captioned_images("train", dataset=str(tmp_path), resolution=16)) == 5
    assert len(load_captioned_images("validation", dataset=str(tmp_path), resolution=16)) == 0


def test_a_validation_split_of_the_data_set_is_used(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 5)
    write_folder(tmp_path / "validation", 2)
    data: dict[str, Any] = {"dataset": str(tmp_path), "resolution": 16}
    assert len(load_captioned_images("train", **data)) == 5
    assert names(load_captioned_images("validation", **data)) == [
        str(tmp_path / "validation" / f"0{n}.png") for n in (0, 1)
    ]
    with pytest.raises(DataError, match=r"^data\.validation_fraction is 0\.1; allowed for .*: 0 \(it has held-out"):
        load_captioned_images("train", **data, validation_fraction=0.1)


def test_validation_images_are_cropped_at_the_centre_and_not_flipped(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    data: dict[str, Any] = {"dataset": str(tmp_path), "resolution": 16, "validation_fraction": 0.5}
    plain = load_captioned_images("validation", **data)
    varied = load_captioned_images("validation", **data, center_crop=False, random_flip=True)
    for number in range(8):
        key = (number, number % 2)
        assert np.array_equal(plain[key]["pixel_values"].numpy(), varied[key]["pixel_values"].numpy())


def test_captions_of_another_column(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    write_metadata(tmp_path, [{"file_name": "00.png", "said": ["a", "b"]}])
    images = load_captioned_images("train", dataset=str(tmp_path), resolution=16, caption_column="said")
    assert images.captions == ["a", "b"]


def emptied(folder: Path) -> Path:
    write_metadata(folder, [])
    return folder


def spoiled(folder: Path) -> Path:
    cut(write_folder(folder, 1) / "00.png")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "no split 'test'; allowed: train, validation"),
        ({"dataset": "./nowhere"}, "data.dataset: './nowhere' is not a folder"),
        ({"validation_fraction": 1.0}, "data.validation_fraction is 1.0; allowed: at least 0 and below 1"),
        (
            {"dataset": "digits", "validation_fraction": 0.1},
            "data.validation_fraction is 0.1; allowed for 'digits': 0 (it has held-out images)",
        ),
        ({"dataset": "shapes", "dataset_revision": "v1"}, "data.dataset_revision is 'v1'; allowed for shapes: null"),
        ({"dataset": "shapes", "random_flip": True}, "data.random_flip is true; allowed for shapes: false"),
        ({"dataset": "emoji", "random_flip": True}, "data.random_flip is true; allowed for emoji: false"),
        ({"dataset": "shapes", "num_samples": 0}, "shapes: 0 pictures of 16 pixels"),
        ({"dataset": emptied}, "is empty: it has no usable image"),
        ({"dataset": spoiled, "on_bad_sample": "skip"}, "is empty: it has no usable image"),
        ({"dataset": spoiled}, "1 of 1 samples cannot be used"),
    ],
)
def test_bad_arguments_are_told_in_one_line(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    dataset = arguments.get("dataset", "digits")
    if callable(dataset):
        arguments = {**arguments, "dataset": str(dataset(tmp_path))}
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load_captioned_images(**{"split": "train", "dataset": dataset, "resolution": 16, **arguments})
    assert "\n" not in str(caught.value)
