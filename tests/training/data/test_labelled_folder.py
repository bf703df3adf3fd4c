"""Folders of images and label images: what belongs together, and what is named where something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.image_folders import write_metadata
from tests.training.data.label_files import grey_image, save, save_labels, write_pairs
from training.data.errors import DataError
from training.data.label_rules import LabelRules
from training.data.labelled_folder import read_metadata_folder, read_paired_folder

RULES = LabelRules()


def test_rows_in_order_with_their_labels(tmp_path: Path) -> None:
    save(tmp_path / "b.png", grey_image(1))
    save(tmp_path / "deep" / "a.tif", grey_image(2, dtype=np.uint16))
    first, second = save_labels(tmp_path / "b-mask.png", 1), save_labels(tmp_path / "deep" / "mask.tif", 2)
    write_metadata(
        tmp_path,
        [{"file_name": "b.png", "mask": "b-mask.png"}, {"file_name": "deep/a.tif", "mask": "./deep/mask.tif", "x": 1}],
    )
    source = read_metadata_folder(tmp_path, "mask", RULES)
    assert (len(source), source.problems) == (2, {})
    assert np.array_equal(source.labels(0), first)
    assert np.array_equal(source.labels(1), second)
    assert np.array_equal(np.asarray(source.image(1)), grey_image(2, dtype=np.uint16))
    assert source.name(1) == str(tmp_path / "deep" / "a.tif")


def test_csv(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey_image())
    labels = save_labels(tmp_path / "a.tif")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,a.tif\n")
    source = read_metadata_folder(tmp_path, "label", RULES)
    assert (len(source), source.problems) == (1, {})
    assert np.array_equal(source.labels(0), labels)


def test_rows_that_lack_something_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey_image())
    save_labels(tmp_path / "a.tif")
    rows = [
        {"file_name": "a.png", "label": "a.tif"},
        {"file_name": "a.png"},
        {"label": "a.tif"},
        {"file_name": "b.png", "label": "a.tif"},
        {"file_name": "a.png", "label": "b.tif"},
        {"file_name": "a.png", "label": 7},
    ]
    write_metadata(tmp_path, rows)
    source = read_metadata_folder(tmp_path, "label", RULES)
    assert source.problems == {
        1: "it has no 'label'",
        2: "it has no 'file_name'",
        3: f"the file {tmp_path / 'b.png'} does not exist",
        4: f"the file {tmp_path / 'b.tif'} does not exist",
        5: "it has no 'label'",
    }
    assert source.name(3) == str(tmp_path / "metadata.jsonl line 4")


def test_images_that_no_row_names(tmp_path: Path) -> None:
    for name in ("a", "b", "stray"):
        save(tmp_path / f"{name}.png", grey_image())
    write_metadata(tmp_path, [{"file_name": "a.png", "label": "b.png"}])
    source = read_metadata_folder(tmp_path, "label", RULES)
    assert source.problems == {1: "no row of metadata.jsonl names it"}
    assert source.name(1) == str(tmp_path / "stray.png")


def test_metadata_without_the_column_or_without_sense(tmp_path: Path) -> None:
    write_metadata(tmp_path, [{"file_name": "a.png", "mask": "b.png"}])
    with pytest.raises(DataError, match=r"no column 'label' \(data\.label_column\); it has: file_name, mask$"):
        read_metadata_folder(tmp_path, "label", RULES)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png"}) + "\nrubbish\n")
    with pytest.raises(DataError, match=r"metadata\.jsonl line 2: not JSON"):
        read_metadata_folder(tmp_path, "label", RULES)
    (tmp_path / "metadata.csv").write_text("file_name\n")
    with pytest.raises(DataError, match=r"both metadata\.jsonl and metadata\.csv; only one is allowed$"):
        read_metadata_folder(tmp_path, "label", RULES)


def test_files_of_one_stem_belong_together(tmp_path: Path) -> None:
    save(tmp_path / "images" / "z.png", grey_image(1))
    save(tmp_path / "images" / "plate.1" / "a.b.JPG", grey_image(2))
    last = save_labels(tmp_path / "labels" / "z.tif", 1)
    first = save_labels(tmp_path / "labels" / "plate.1" / "a.b.png", 2)
    (tmp_path / "labels" / ".hidden.png").write_text("")
    (tmp_path / "labels" / "notes.txt").write_text("")
    source = read_paired_folder(tmp_path, RULES)
    assert (len(source), source.problems) == (2, {})
    assert [source.name(index) for index in range(2)] == [
        str(tmp_path / "images" / "plate.1" / "a.b.JPG"),
        str(tmp_path / "images" / "z.png"),
    ]
    assert np.array_equal(source.labels(0), first)
    assert np.array_equal(source.labels(1), last)


def test_files_without_a_partner_are_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)
    (tmp_path / "labels" / "00.png").unlink()
    (tmp_path / "images" / "02.png").unlink()
    source = read_paired_folder(tmp_path, RULES)
    missing = {0: tmp_path / "labels" / "00", 2: tmp_path / "images" / "02"}
    assert source.problems == {
        index: f"it has no partner {path} with a suffix such as .png or .tif" for index, path in missing.items()
    }
    assert source.name(0) == str(tmp_path / "images" / "00.png")
    assert source.name(2) == str(tmp_path / "labels" / "02.png")


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_two_files_of_one_stem(tmp_path: Path, folder: str) -> None:
    write_pairs(tmp_path, 2)
    save(tmp_path / folder / "01.tif", grey_image())
    both = f"{tmp_path / folder / '01.png'} and {tmp_path / folder / '01.tif'}"
    assert read_paired_folder(tmp_path, RULES).problems == {1: f"{both} have the same stem; allowed: one of them"}


@pytest.mark.parametrize(("there", "missing"), [("images", "labels"), ("labels", "images")])
def test_one_folder_of_the_two(tmp_path: Path, there: str, missing: str) -> None:
    (tmp_path / there).mkdir()
    with pytest.raises(DataError, match=f" has a folder '{there}', but none that is called '{missing}'$"):
        read_paired_folder(tmp_path, RULES)
