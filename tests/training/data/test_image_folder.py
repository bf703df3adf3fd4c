"""Folders of images with a metadata file: what is read, and what is named when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.data.image_folders import write_folder, write_image, write_metadata
from training.data.errors import DataError
from training.data.image_folder import ImageFolderSource


def test_rows_in_order_with_their_captions(tmp_path: Path) -> None:
    write_image(tmp_path / "b.png")
    write_image(tmp_path / "deep" / "a.jpg", size=(20, 50))
    write_metadata(
        tmp_path,
        [{"file_name": "b.png", "text": "first"}, {"file_name": "deep/a.jpg", "text": ["second", "other"], "more": 1}],
    )
    source = ImageFolderSource(tmp_path)
    assert source.captions == ["first", ["second", "other"]]
    assert source.problems == {}
    assert [source.image(index).size for index in range(2)] == [(40, 30), (20, 50)]
    assert source.name(1) == str(tmp_path / "deep" / "a.jpg")


def test_csv_another_caption_column_and_a_byte_order_mark(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text('\ufefffile_name,caption\na.png,"red, and\nblue"\n', encoding="utf-8")
    assert ImageFolderSource(tmp_path, caption_column="caption").captions == ["red, and\nblue"]


def test_the_same_file_in_two_rows(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_metadata(tmp_path, [{"file_name": "a.png", "text": "one"}, {"file_name": "./a.png", "text": "two"}])
    source = ImageFolderSource(tmp_path)
    assert (source.captions, source.problems) == (["one", "two"], {})


@pytest.mark.parametrize(
    ("caption", "problem"),
    [
        (None, "it has no caption"),
        ("", "it has no caption"),
        ([], "it has no caption"),
        (["fine", None], "it has no caption"),
        ("  \n", "its caption is blank"),
        (7, "its caption is 7, which is not text"),
        (["fine", 7], "its caption is 7, which is not text"),
    ],
)
def test_missing_captions(tmp_path: Path, caption: object, problem: str) -> None:
    write_folder(tmp_path, 2)
    write_metadata(tmp_path, [{"file_name": "00.png", "text": "fine"}, {"file_name": "01.png", "text": caption}])
    source = ImageFolderSource(tmp_path)
    assert source.problems == {1: problem}
    assert source.problem(1, verify=True) == f"{tmp_path / '01.png'}: {problem}"


def test_a_row_without_a_caption_column_and_one_without_a_file(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    write_metadata(tmp_path, [{"file_name": "00.png", "text": "fine"}, {"file_name": "01.png"}, {"text": "lonely"}])
    problems = ImageFolderSource(tmp_path).problems
    assert problems == {1: "it has no caption", 2: "it has no 'file_name'"}


def test_rows_whose_file_is_missing_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    (tmp_path / "01.png").unlink()
    source = ImageFolderSource(tmp_path)
    assert source.problem(0, verify=True) is None
    assert source.problem(1, verify=False) == (
        f"{tmp_path / '01.png'}: the file does not exist (metadata.jsonl line 2 names it)"
    )


def test_images_that_no_row_names_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    write_image(tmp_path / "cats" / "stray.JPG")
    write_image(tmp_path / ".thumbnails" / "00.png")
    (tmp_path / "notes.txt").write_text("no image")
    source = ImageFolderSource(tmp_path)
    assert len(source) == 2
    assert source.problem(1, verify=False) == (
        f"{tmp_path / 'cats' / 'stray.JPG'}: it has no caption (no row of metadata.jsonl names it)"
    )


def no_metadata(folder: Path) -> None:
    (folder / "metadata.jsonl").unlink()


def both_metadata(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,text\n00.png,one\n")


def broken_line(folder: Path) -> None:
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('\n{"file_name": "05.png", "text": oops}\n')


def no_object(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('["00.png", "one"]\n')


def other_columns(folder: Path) -> None:
    write_metadata(folder, [{"file_name": "00.png", "caption": "one", "tags": []}])


def no_file_names(folder: Path) -> None:
    write_metadata(folder, [{"file": "00.png", "text": "one"}])


def not_utf8(folder: Path) -> None:
    (folder / "metadata.jsonl").write_bytes(b'{"file_name": "00.png", "text": "\xff\xfe"}\n')


def long_csv_row(folder: Path) -> None:
    no_metadata(folder)
    (folder / "metadata.csv").write_text("file_name,text\n00.png,one, and two\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_metadata, r"^{}: no captions; it needs metadata\.jsonl or metadata\.csv with a row for each image$"),
        (both_metadata, r"^{}: both metadata\.jsonl and metadata\.csv; only one is allowed$"),
        (broken_line, r"^{}/metadata\.jsonl line 6: not JSON \(Expecting value at column 33\)$"),
        (no_object, r"^{}/metadata\.jsonl line 1: a JSON object is needed, not \[.*\]$"),
        (other_columns, r"no column 'text' \(data\.caption_column\); it has: caption, file_name, tags$"),
        (no_file_names, r"no column 'file_name' \(paths of the images\); it has: file, text$"),
        (not_utf8, r"^{}/metadata\.jsonl: cannot be read \('utf-8' codec can't decode"),
        (long_csv_row, r"^{}/metadata\.csv line 2: more fields than the header has$"),
    ],
)
def test_bad_metadata_is_one_clear_line(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    write_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message.replace("{}", str(tmp_path))) as caught:
        ImageFolderSource(tmp_path)
    assert "\n" not in str(caught.value)
