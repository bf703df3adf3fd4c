"""`make bench` writes every section, survives one that fails, and refuses wrong options with one line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import bench
from benchmarks.machine import ROOT
from benchmarks.measurement import Conditions, Row, Spread
from training.data.catalogue import load_captioned_images

QUICK = ("limits", "data", "counters")


@pytest.fixture
def as_before(quiet_libraries):
    import datasets

    yield
    datasets.enable_progress_bars()


def read(folder):
    return json.loads((folder / "bench.json").read_text()), (folder / "bench.md").read_text()


def run(arguments, folder):
    return bench.main([*arguments, "--size", "tiny", "--repetitions", "1", "--output", str(folder)])


def assert_holds(folder, sections):
    content, page = read(folder)
    assert content["failures"] == {}
    assert content["repetitions"] == 1
    assert {"processor", "cores", "torch", "device"} <= content["machine"].keys()
    assert list(content["seconds_of_sections"]) == sections
    assert {row["section"] for row in content["rows"]} == set(sections)
    for row in content["rows"]:
        assert row["unit"]
        assert row["spread"]["low"] <= row["spread"]["median"] <= row["spread"]["high"]
        assert f"| {row['name']} | {row['unit']} |" in page
    assert [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")] == sections


@pytest.mark.usefixtures("as_before")
def test_quick_sections(tmp_path):
    assert run(["--sections", "counters,limits,data"], tmp_path) == 0
    assert_holds(tmp_path, list(QUICK))


@pytest.mark.slow
def test_every_section(tmp_path):
    command = [sys.executable, "benchmarks/bench.py", "--size", "tiny", "--repetitions", "1", "--output", tmp_path]
    subprocess.run(command, check=True, cwd=ROOT)
    assert_holds(tmp_path, list(bench.SECTIONS))


@pytest.mark.usefixtures("as_before")
def test_a_section_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    def rows_of(section, conditions):
        assert conditions == Conditions(1, conditions.device, True)
        if section == "data":
            raise OSError("the disk\nis full")
        return [Row(section, "one | two", "s", Spread.of([1.0]), Spread.of([1234.5]), Spread.of([2.0, 3.0]))]

    monkeypatch.setattr(bench, "rows_of", rows_of)
    assert run(["--sections", ",".join(QUICK)], tmp_path) == 1
    content, page = read(tmp_path)
    assert content["failures"] == {"data": "OSError: the disk is full"}
    assert [row["section"] for row in content["rows"]] == ["limits", "counters"]
    assert "| one \\| two | s | 1 | 1,234 | 2.5 (2.25 to 2.75) |  |" in page
    assert "failed: OSError: the disk is full" in page
    assert "data failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sections", "limits,speed"], "--sections 'limits,speed': 'speed' must be one of limits, training, "),
        (["--repetitions", "0"], "--repetitions '0': must be a whole number of at least 1"),
        (["--repetitions", "many"], "--repetitions 'many': must be a whole number of at least 1"),
        (["--size", "huge"], "--size 'huge': must be full or tiny"),
        (["--output", "/dev/null/bench"], "--output '/dev/null/bench': must be a folder that can be written"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_data_sets_that_are_written_are_read(tmp_path):
    from benchmarks.data_loading import write_image_folder, write_parquet
    from training.data.shapes import ShapesSource

    write_image_folder(tmp_path / "images", ShapesSource("seen", 3, 64, 0))
    write_parquet(tmp_path / "images", tmp_path / "parquet")
    for folder in ("images", "parquet"):
        loaded = load_captioned_images("train", dataset=str(tmp_path / folder), resolution=64)
        assert list(loaded.captions) == [ShapesSource("seen", 3, 64, 0).captions[number] for number in range(3)]
