"""Images and label images in the rows of `datasets`."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.training.data.label_files import grey_image, label_map, save, save_labels
from training.data.errors import DataError
from training.data.label_rules import LabelRules
from training.data.labelled_rows import LabelledRows

RULES = LabelRules()


def encoded(pixels: np.ndarray, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def table(num_rows: int = 3, num_labels: int = 4) -> datasets.Dataset:
    images = [{"bytes": encoded(grey_image(number)), "path": f"{number}.png"} for number in range(num_rows)]
    labels = [label_map(number, num_labels=num_labels).astype(np.uint16) for number in range(num_rows)]
    files = [{"bytes": encoded(page, "TIFF"), "path": f"{number}-mask.tif"} for number, page in enumerate(labels)]
    rows = datasets.Dataset.from_dict({"image": images, "label": files})
    return rows.cast_column("image", datasets.Image()).cast_column("label", datasets.Image())


def test_rows_with_their_labels() -> None:
    source = LabelledRows(table(num_labels=300), "mine", RULES)
    assert len(source) == 3
    for number in range(3):
        assert np.array_equal(np.asarray(source.image(number)), grey_image(number))
        assert np.array_equal(source.labels(number), label_map(number, num_labels=300))
    assert source.name(1) == "mine row 1 (1.png)"
    assert source.label_file(1).name == "mine row 1, column 'label' (1-mask.tif)"


def test_what_datasets_encodes_itself() -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    pixels, labels = grey_image(dtype=np.uint16), label_map(num_labels=300) + 100_000
    rows = datasets.Dataset.from_dict({"image": [pixels], "label": [labels]}, features=features)
    source = LabelledRows(rows, "mine", RULES)
    assert np.array_equal(np.asarray(source.image(0)), pixels)
    assert np.array_equal(source.labels(0), labels)


def test_columns_of_other_names_raw_bytes_and_paths(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey_image())
    labels = save_labels(tmp_path / "b.png")
    held = {"photo": [str(tmp_path / "a.png")], "mask": [(tmp_path / "b.png").read_bytes()]}
    source = LabelledRows(datasets.Dataset.from_dict(held), "mine", RULES, "photo", "mask")
    assert source.image(0).size == (24, 18)
    assert np.array_equal(source.labels(0), labels)


def test_a_source_can_be_pickled() -> None:
    source = pickle.loads(pickle.dumps(LabelledRows(table(), "mine", RULES)))
    assert np.array_equal(source.labels(2), label_map(2))


def test_rows_without_image_or_labels() -> None:
    rows = datasets.Dataset.from_dict(
        {"image": [None], "label": [None]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Image()}),
    )
    source = LabelledRows(rows, "mine", RULES)
    with pytest.raises(DataError, match=r"^mine row 0: it has no image$"):
        source.image(0)
    with pytest.raises(DataError, match=r"^mine row 0, column 'label': it has no image$"):
        source.labels(0)


def test_columns_that_are_missing_or_hold_no_images() -> None:
    with pytest.raises(DataError, match=r"^mine: no column 'mask' \(data\.label_column\); it has: image, label$"):
        LabelledRows(table(), "mine", RULES, label_column="mask")
    with pytest.raises(DataError, match=r"^mine: no column 'photo' \(data\.image_column\); it has: image, label$"):
        LabelledRows(table(), "mine", RULES, image_column="photo")
    numbered = table().remove_columns("label").add_column("label", [1, 2, 3])
    with pytest.raises(DataError, match=r"column 'label' \(data\.label_column\) holds Value\('int64'\), not images"):
        LabelledRows(numbered, "mine", RULES)
    with pytest.raises(DataError, match=r"^data\.label_column is 'image'; allowed: another one than data\.image_c"):
        LabelledRows(table(), "mine", RULES, label_column="image")


def test_labels_that_break_the_rules_name_their_row() -> None:
    with pytest.raises(DataError, match=r"^mine row 1, column 'label' \(1-mask\.tif\): a class of 3; allowed: 0 to 2"):
        LabelledRows(table(), "mine", LabelRules("classes", 3)).labels(1)
