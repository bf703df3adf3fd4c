"""What a tar file holds, sample by sample, as webdataset groups its members."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.training.data.shards import encoded, json_of, tar_members, write_tar
from training.data.tar_listing import IndexedSample, list_tar_samples

PICTURE = encoded(3)


def listed(path: Path, image_column: str = "image", caption_column: str = "text") -> list[IndexedSample]:
    with path.open("rb") as file:
        return list(list_tar_samples(file, image_column, caption_column))


def test_positions_are_those_of_the_bytes(tmp_path):
    path = write_tar(tmp_path / "a.tar", tar_members(range(5)))
    content = path.read_bytes()
    samples = listed(path)
    assert [sample.name for sample in samples] == [f"{number:05d}.png" for number in range(5)]
    assert [sample.captions for sample in samples] == [[f"text {number}"] for number in range(5)]
    assert [content[s.position : s.position + s.size] for s in samples] == [encoded(number) for number in range(5)]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_layout_and_long_names(tmp_path, layout):
    folder = "a" * 90 + "/" + "b" * 90
    names = [f"{folder}/{number}" for number in range(2)]
    if layout != tarfile.USTAR_FORMAT:
        names = [f"{name}-{'c' * 200}ü" for name in names]
    members = [(f"{name}.{end}", content) for name in names for end, content in (("jpg", PICTURE), ("txt", b"x"))]
    path = write_tar(tmp_path / "a.tar", members, format=layout)
    samples = listed(path)
    assert [sample.name for sample in samples] == [f"{name}.jpg" for name in names]
    assert all(path.read_bytes()[s.position : s.position + s.size] == PICTURE for s in samples)


def test_keys_end_at_the_first_dot_of_the_last_part(tmp_path):
    members = [
        *[("v1.0/a.seg.png", b"mask"), ("v1.0/a.PNG", PICTURE), ("v1.0/a.txt", b"one")],
        *[("v1.0/b.png", PICTURE), ("v1.0/b.txt", b"two"), ("README", b"none"), ("v1.0/._b.png", b"none")],
        ("v2.0/b.txt", b"three"),
        ("v2.0/b.png", PICTURE),
    ]
    samples = listed(write_tar(tmp_path / "a.tar", members))
    assert [(s.name, s.captions, s.problem) for s in samples] == [
        ("v1.0/a.png", ["one"], None),
        ("v1.0/b.png", ["two"], None),
        ("v2.0/b.png", ["three"], None),
    ]


@pytest.mark.parametrize(
    ("members", "column", "captions"),
    [
        ([("a.txt", b" said \n")], "text", ["said"]),
        ([("a.caption", b"said")], "text", ["said"]),
        ([("a.json", json_of(text="said"))], "text", ["said"]),
        ([("a.json", json_of(text=["one", "two"]))], "text", ["one", "two"]),
        ([("a.json", json_of(url="x", said="this")), ("a.txt", b"that")], "said", ["this"]),
        ([("a.json", json_of(url="x")), ("a.txt", b"that")], "text", ["that"]),
        ([("a.long", b"this"), ("a.txt", b"that"), ("a.json", json_of(long="no"))], "long", ["this"]),
    ],
)
def test_where_captions_come_from(tmp_path, members, column, captions):
    (sample,) = listed(write_tar(tmp_path / "a.tar", [("a.jpg", PICTURE), *members]), caption_column=column)
    assert (sample.captions, sample.problem) == (captions, None)


def test_the_image_is_chosen_by_its_extension(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.jpg", PICTURE), ("a.depth.png", b"depth"), ("a.txt", b"x")])
    assert [sample.name for sample in listed(path)] == ["a.jpg"]
    assert [sample.name for sample in listed(path, "depth.png")] == ["a.depth.png"]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("a.txt", b"x"), ("a.cls", b"1")], "it has no image; it has: txt, cls"),
        (
            [("a.jpg", b""), ("a.png", b""), ("a.txt", b"x")],
            "it has 2 images; allowed: data.image_column names one",
        ),
        ([("a.jpg", PICTURE)], "it has no caption"),
        ([("a.jpg", PICTURE), ("a.txt", b" \n")], "it has no caption"),
        ([("a.jpg", PICTURE), ("a.txt", b"\xff")], "its caption is not UTF-8"),
        ([("a.jpg", PICTURE), ("a.json", b"{")], "its json cannot be read"),
        ([("a.jpg", PICTURE), ("a.json", json_of(text=3))], "its caption is 3, which is not text"),
        (
            [("a.jpg", PICTURE), ("a.json", json_of(url="x", caption="y"))],
            "it has no caption 'text' (data.caption_column); its json has: url, caption",
        ),
    ],
)
def test_what_is_wrong_with_a_sample(tmp_path, members, problem):
    (sample,) = listed(write_tar(tmp_path / "a.tar", members))
    assert sample.problem.startswith(problem)
    assert sample.captions == []


def test_neighbours_of_one_name_are_two_samples(tmp_path):
    samples = listed(write_tar(tmp_path / "a.tar", [*tar_members([7]), *tar_members([7])]))
    assert [sample.captions for sample in samples] == [["text 7"]] * 2


@pytest.mark.parametrize("length", [700, 1500, 2000])
def test_a_cut_file_is_an_error(tmp_path, length):
    path = write_tar(tmp_path / "a.tar", tar_members(range(3)))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(tarfile.TarError):
        listed(path)


def test_one_file_appended_to_another_is_an_error(tmp_path):
    path = write_tar(tmp_path / "a.tar", tar_members(range(2)))
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(tarfile.TarError, match=r"though the file goes on"):
        listed(path)
