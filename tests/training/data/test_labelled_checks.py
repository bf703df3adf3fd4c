"""Every image and its labels are read before training; bad ones are named, or left out with one warning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_pipeline.pipelines.segmentation_inputs import read_images
from tests.training.data.image_folders import cut
from tests.training.data.label_files import grey_image, label_map, save, write_pairs
from training.data.errors import DataError
from training.data.label_rules import LabelRules
from training.data.labelled_checks import usable_labelled
from training.data.labelled_folder import read_paired_folder
from training.data.labelled_source import LabelledFiles

CHECK = partial(read_images, in_channels=1)


def read(folder: Path, rules: LabelRules | None = None) -> LabelledFiles:
    return read_paired_folder(folder, rules or LabelRules(), max_image_pixels=1000)


def missing(images: Path, labels: Path) -> None:
    labels.unlink()


def cut_image(images: Path, labels: Path) -> None:
    cut(images)


def cut_labels(images: Path, labels: Path) -> None:
    cut(labels)


def another_size(images: Path, labels: Path) -> None:
    save(labels, label_map(size=(18, 24)).astype(np.uint8))


def turned_image(images: Path, labels: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey_image()).save(images, exif=exif)


def too_large(images: Path, labels: Path) -> None:
    save(images, grey_image(size=(100, 20)))


def negative_image(images: Path, labels: Path) -> None:
    Image.fromarray(np.full((18, 24), -1, np.int32)).save(images, "TIFF")


def floats(images: Path, labels: Path) -> None:
    Image.fromarray(label_map().astype(np.float32)).save(labels, "TIFF")


BAD = [
    (missing, "images/02.png: it has no partner {}/labels/02 with a suffix such as .png or .tif"),
    (cut_image, "images/02.png: it cannot be read as an image ("),
    (cut_labels, "labels/02.png: it cannot be read as an image ("),
    (
        another_size,
        "images/02.png: 24x18 pixels, but its labels, {}/labels/02.png, have 18x24; allowed: the same size",
    ),
    (
        turned_image,
        "images/02.png: 18x24 pixels, but its labels, {}/labels/02.png, have 24x18; allowed: the same size",
    ),
    (too_large, "images/02.png: 100 x 20 pixels; allowed: 1000 in all (data.max_image_pixels)"),
    (negative_image, "images/02.png: `images` cannot be read: grey values from -1 to -1; allowed: 0 to 65535"),
    (floats, "labels/02.png: labels are floating point; allowed: integers"),
]


@pytest.mark.parametrize(("spoil", "reason"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_bad_samples_are_named_or_left_out(
    tmp_path: Path, spoil: Callable[[Path, Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_pairs(tmp_path, 4)
    spoil(tmp_path / "images" / "02.png", tmp_path / "labels" / "02.png")
    source = read(tmp_path)
    with pytest.raises(DataError) as caught:
        usable_labelled(source, range(4), CHECK, "error", "mine")
    message = str(caught.value)
    told = "data.dataset 'mine': 1 of 4 samples cannot be used: "
    assert message.startswith(f"{told}{tmp_path}/{reason.format(tmp_path)}")
    assert "\n" not in message
    assert message.endswith(" (data.on_bad_sample: skip leaves such samples out)")
    with caplog.at_level(logging.WARNING):
        assert usable_labelled(source, range(4), CHECK, "skip", "mine") == ([0, 1, 3], {0, 1})
    assert [record.getMessage() for record in caplog.records] == ["left out: " + message.rpartition(" (data.")[0]]


def test_good_samples_pass_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = read(write_pairs(tmp_path, 3), LabelRules("classes", 4))
    with caplog.at_level(logging.WARNING):
        assert usable_labelled(source, [2, 0], CHECK, "error", "mine") == ([2, 0], {0, 1, 2, 3})
    assert not caplog.records


def test_an_image_and_its_labels_may_both_be_turned(tmp_path: Path) -> None:
    write_pairs(tmp_path, 1)
    turned_image(tmp_path / "images" / "00.png", tmp_path)
    turned_image(tmp_path / "labels" / "00.png", tmp_path)
    source = read(tmp_path, LabelRules())
    assert usable_labelled(source, [0], CHECK, "error", "mine")[0] == [0]
    assert source.image(0).size == (18, 24)
    assert source.labels(0).shape == (24, 18)


def test_classes_are_those_of_the_checked_samples_alone(tmp_path: Path) -> None:
    write_pairs(tmp_path, 2)
    save(tmp_path / "labels" / "01.png", np.zeros((18, 24), np.uint8))
    assert usable_labelled(read(tmp_path), [1], None, "error", "mine") == ([1], {0})


def test_images_that_the_network_cannot_take_are_named(tmp_path: Path) -> None:
    source = read(write_pairs(tmp_path, 1))
    with pytest.raises(DataError, match=r"images/00\.png: `images` is 'of 1 channels'; it must be of 2 channels"):
        usable_labelled(source, [0], partial(read_images, in_channels=2), "error", "mine")


def test_unknown_choice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.on_bad_sample is 'ignore'; allowed: 'error', 'skip'$"):
        usable_labelled(read(write_pairs(tmp_path)), [0], None, "ignore", "mine")
