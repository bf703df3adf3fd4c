"""TIFF stacks as those of ISBI 2012."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.data.image_folders import cut
from tests.training.data.label_files import grey_image, label_map, save, save_stack
from training.data.errors import DataError
from training.data.label_rules import LabelRules
from training.data.label_stacks import read_stacks, stacked_splits

VOLUME = [grey_image(number) for number in range(3)]
MASKS = [((label_map(number) > 0) * 255).astype(np.uint8) for number in range(3)]


def write_stacks(folder: Path, split: str = "train") -> Path:
    save_stack(folder / f"{split}-volume.tif", VOLUME)
    save_stack(folder / f"{split}-labels.tif", MASKS)
    return folder


def test_pages_are_samples(tmp_path: Path) -> None:
    source = read_stacks(write_stacks(tmp_path), "train", LabelRules("classes"))
    assert len(source) == 3
    for number in range(3):
        assert np.array_equal(np.asarray(source.image(number)), VOLUME[number])
        assert np.array_equal(source.labels(number), MASKS[number] // 255)
    assert source.name(2) == f"{tmp_path / 'train-volume.tif'} page 2"
    as_instances = read_stacks(tmp_path, "train", LabelRules())
    assert np.array_equal(as_instances.labels(1), MASKS[1])


def test_pages_of_16_bits_and_other_compressions(tmp_path: Path) -> None:
    volume = [grey_image(number, dtype=np.uint16) for number in range(2)]
    labels = [label_map(number, num_labels=400).astype(np.uint16) for number in range(2)]
    save_stack(tmp_path / "train-volume.tiff", volume, compression="tiff_lzw")
    save_stack(tmp_path / "train-labels.tif", labels, compression="tiff_adobe_deflate")
    source = read_stacks(tmp_path, "train", LabelRules())
    assert np.array_equal(np.asarray(source.image(1)), volume[1])
    assert np.array_equal(source.labels(1), labels[1])


def test_a_stack_of_one_page(tmp_path: Path) -> None:
    save(tmp_path / "train-volume.tif", VOLUME[0])
    save(tmp_path / "train-labels.tif", MASKS[0])
    assert len(read_stacks(tmp_path, "train", LabelRules())) == 1


def test_which_splits_there_are(tmp_path: Path) -> None:
    save_stack(tmp_path / "test-volume.tif", VOLUME)
    assert stacked_splits(tmp_path) == []
    write_stacks(tmp_path)
    assert stacked_splits(tmp_path) == ["train"]
    save_stack(tmp_path / "validation-labels.tif", MASKS)
    assert stacked_splits(tmp_path) == ["train", "validation"]


def test_a_stack_without_its_partner(tmp_path: Path) -> None:
    write_stacks(tmp_path)
    (tmp_path / "train-labels.tif").unlink()
    with pytest.raises(DataError, match=r"train-volume\.tif: there is no train-labels\.tif beside it$"):
        read_stacks(tmp_path, "train", LabelRules())


def test_two_stacks_of_one_name(tmp_path: Path) -> None:
    save_stack(write_stacks(tmp_path) / "train-labels.tiff", MASKS)
    with pytest.raises(DataError, match=r": both train-labels\.tif and train-labels\.tiff; only one is allowed$"):
        read_stacks(tmp_path, "train", LabelRules())


def test_different_numbers_of_pages(tmp_path: Path) -> None:
    save_stack(write_stacks(tmp_path) / "train-labels.tif", MASKS[:2])
    expected = r"train-volume\.tif has 3 pages, and .*train-labels\.tif has 2; allowed: the same number$"
    with pytest.raises(DataError, match=expected):
        read_stacks(tmp_path, "train", LabelRules())


def test_a_page_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_stacks(tmp_path)
    path = tmp_path / "train-labels.tif"
    sound = path.read_bytes()
    at = sound.index(MASKS[1].tobytes())
    directory = sound.index(b"\x00\x01", at - 300, at)
    path.write_bytes(sound[:directory] + b"\xff" * 40 + sound[directory + 40 :])
    with pytest.raises(DataError, match=r"train-labels\.tif"):
        read_stacks(tmp_path, "train", LabelRules()).labels(1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_cut_stacks(tmp_path: Path) -> None:
    path = write_stacks(tmp_path) / "train-volume.tif"
    sound = path.read_bytes()
    path.write_bytes(sound[: sound.index(VOLUME[2].tobytes()) + 50])
    source = read_stacks(tmp_path, "train", LabelRules())
    assert np.array_equal(np.asarray(source.image(1)), VOLUME[1])
    with pytest.raises(DataError, match=r"train-volume\.tif page 2: it cannot be read as an image \("):
        source.image(2)
    cut(path, 0.4)
    with pytest.raises(DataError, match=r"train-volume\.tif"):
        read_stacks(tmp_path, "train", LabelRules())


def test_a_stack_that_is_no_tiff(tmp_path: Path) -> None:
    write_stacks(tmp_path)
    save(tmp_path / "a.png", MASKS[0]).replace(tmp_path / "train-labels.tif")
    with pytest.raises(DataError, match=r"train-labels\.tif: it is a PNG file; allowed: TIFF$"):
        read_stacks(tmp_path, "train", LabelRules())
    (tmp_path / "train-labels.tif").write_text("nothing")
    with pytest.raises(DataError, match=r"train-labels\.tif: it is not an image that can be read$"):
        read_stacks(tmp_path, "train", LabelRules())
