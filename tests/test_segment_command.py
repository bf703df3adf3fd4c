"""`sd-pipeline segment`: files are the results of the Python call; nothing is written where something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sd_pipeline import SDPipeline, SegmentationPipeline, SegmentationUNet, cli, segmentation_files
from sd_pipeline.pipelines.pipeline_segmentation import SegmentationPipelineOutput
from sd_pipeline.pipelines.segmentation_maps import connected_components
from sd_pipeline.pipelines.segmentation_overlay import overlay
from tests.components import tiny_components
from tests.pictures import levels
from tests.source_files import ROOT

KINDS = ["instances.png", "labels.png", "overlay.png"]

pytestmark = pytest.mark.usefixtures("quiet_libraries")


def save_model(folder: Path, num_classes: int = 3) -> str:
    torch.manual_seed(0)
    SegmentationPipeline(unet=SegmentationUNet(1, num_classes, (4, 6))).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "cells")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """One of each kind, of other sizes."""
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(grey(45, 67)).save(folder / "grey.png")
    Image.fromarray(levels(40, 30, 3)).save(folder / "colours.jpg")
    Image.fromarray(levels(31, 33, 4)).save(folder / "glass.png")
    Image.fromarray(wide(29, 35)).save(folder / "wide.tif")
    Image.fromarray(wide(1, 50)).save(folder / "line.png")
    Image.fromarray((wide(20, 21) / 65535).astype(np.float32)).save(folder / "floats.tiff")
    save_stack(folder / "stack.tif", [wide(24, 26, seed) for seed in range(12)])
    return folder


def grey(height: int, width: int, seed: int = 0) -> np.ndarray:
    return levels(width, height, 1, seed)[..., 0]


def wide(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, (height, width)).astype(np.uint16)


def save_stack(path: Path, pages: list[np.ndarray]) -> None:
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others)


def segment(model: str, output: Path, *arguments: object) -> int:
    options = ["--model", model, "--output", str(output), "--device", "cpu"]
    return cli.main(["segment", *options, *map(str, arguments)])


def expected_of(model: str, image: object, **call: int):
    pipe = SegmentationPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe(image, **call)


def read(path: Path) -> np.ndarray:
    return np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_written(folder: Path, name: str, image: object, model: str, **call: int) -> None:
    expected = expected_of(model, image, **call)
    found = {kind: read(folder / f"{name}-{kind}") for kind in KINDS}
    assert (found["labels.png"].dtype, found["instances.png"].dtype) == (np.uint8, np.uint16)
    np.testing.assert_array_equal(found["labels.png"], expected.labels[0])
    np.testing.assert_array_equal(found["instances.png"], expected.instances[0])
    np.testing.assert_array_equal(found["overlay.png"], overlay(image, expected.instances[0]))


@pytest.mark.parametrize("file", ["grey.png", "colours.jpg", "glass.png", "wide.tif", "line.png", "floats.tiff"])
def test_files_are_the_results_of_the_python_call(model, images, file, tmp_path, capsys):
    image, output = images / file, tmp_path / "new" / "folder"
    assert segment(model, output, image, "--probabilities") == 0
    captured = capsys.readouterr()
    assert_written(output, image.stem, image, model)
    expected = expected_of(model, image)
    probabilities = read(output / f"{image.stem}-probabilities.npy")
    assert probabilities.dtype == np.float32
    np.testing.assert_array_equal(probabilities, expected.probabilities[0])
    written = [f"{image.stem}-{what}" for what in ("labels.png", "instances.png", "overlay.png", "probabilities.npy")]
    assert names_in(output) == sorted(written)
    last_line = f"{image.stem}: {expected.instances[0].max()} instances"
    assert captured.out.splitlines() == [*(str(output / name) for name in written), last_line]
    assert captured.err == "", "no bar, since this is no terminal"


def test_several_images_and_the_options_of_the_call(model, images, tmp_path):
    files = [images / "grey.png", images / "wide.tif"]
    assert segment(model, tmp_path / "out", *files, "--tile-size", 36, "--batch-size", 3) == 0
    for file in files:
        assert_written(tmp_path / "out", file.stem, file, model, tile_size=36, batch_size=3)
    assert segment(model, tmp_path / "bare", *files, "--no-overlay") == 0
    kinds = ("instances.png", "labels.png")
    assert names_in(tmp_path / "bare") == [f"{name}-{kind}" for name in ("grey", "wide") for kind in kinds]


def test_every_page_of_a_stack_is_an_image(model, images, tmp_path):
    assert segment(model, tmp_path, images / "stack.tif") == 0
    assert names_in(tmp_path) == sorted(f"stack-{number:02d}-{kind}" for number in range(12) for kind in KINDS)
    for number in (0, 1, 11):
        assert_written(tmp_path, f"stack-{number:02d}", wide(24, 26, number), model)


def test_pages_may_differ_in_size_and_kind(model, tmp_path):
    pages = [grey(20, 30), wide(33, 11), levels(17, 16, 3)]
    save_stack(tmp_path / "mixed.tif", pages)
    assert segment(model, tmp_path / "out", tmp_path / "mixed.tif") == 0
    for number, page in enumerate(pages):
        assert_written(tmp_path / "out", f"mixed-{number}", page, model)


def test_one_image_after_the_other_is_given_to_the_network(model, images, tmp_path, monkeypatch):
    given: list[object] = []
    call = SegmentationPipeline.__call__

    def noted(self, image, **options):
        given.append((image.shape, len(names_in(tmp_path))))
        return call(self, image, **options)

    monkeypatch.setattr(SegmentationPipeline, "__call__", noted)
    assert segment(model, tmp_path, images / "grey.png", images / "glass.png", images / "wide.tif") == 0
    assert given == [((45, 67), 0), ((33, 31, 3), 3), ((29, 35), 6)]


def test_the_bar_is_for_terminals(model, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert segment(model, tmp_path, images / "grey.png", "--tile-size", 36) == 0
    assert "grey:" in capsys.readouterr().err


def test_more_classes_than_bytes_have_are_16_bits(images, tmp_path):
    model = save_model(tmp_path / "model", num_classes=300)
    assert segment(model, tmp_path / "out", images / "grey.png") == 0
    labels = read(tmp_path / "out/grey-labels.png")
    assert labels.dtype == np.uint16
    assert labels.max() > 255
    np.testing.assert_array_equal(labels, expected_of(model, images / "grey.png").labels[0])


def test_more_instances_than_16_bits_hold_are_a_tiff(model, images, tmp_path, monkeypatch):
    few, many = tmp_path / "grey-instances.png", tmp_path / "grey-instances.tif"
    assert segment(model, tmp_path, images / "grey.png", "--no-overlay") == 0
    monkeypatch.setattr(segmentation_files, "LARGEST_OF_PNG", 5)
    assert segment(model, tmp_path, images / "grey.png", "--no-overlay", "--overwrite") == 0
    assert not few.exists(), "two files of instances would contradict each other"
    assert read(many).dtype == np.int32
    np.testing.assert_array_equal(read(many), expected_of(model, images / "grey.png").instances[0])
    monkeypatch.undo()
    assert segment(model, tmp_path, images / "grey.png", "--no-overlay") == cli.BAD_INPUT
    assert segment(model, tmp_path, images / "grey.png", "--no-overlay", "--overwrite") == 0
    assert few.exists()
    assert not many.exists()


def test_numbers_beyond_16_bits_survive(tmp_path):
    labels = np.zeros((600, 600), np.uint8)
    labels[::2, ::2] = 1
    instances = connected_components(labels)
    assert instances.max() == 90_000
    output = SegmentationPipelineOutput([labels], [], [instances])
    files = segmentation_files.ResultFiles(tmp_path, "points", has_overlay=False, has_probabilities=False)
    assert [path.name for path in files.write(labels, output)] == ["points-labels.png", "points-instances.tif"]
    np.testing.assert_array_equal(read(tmp_path / "points-instances.tif"), instances)


def test_nothing_is_overwritten_unless_asked(model, images, tmp_path, capsys):
    for name in ("wide-labels.png", "wide-overlay.png"):
        (tmp_path / name).write_text("precious")
    files = [images / "grey.png", images / "wide.tif"]
    refused(capsys, "wide-labels.png exists; --overwrite replaces it", model, tmp_path, *files)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"precious"}
    assert len(names_in(tmp_path)) == 2
    (tmp_path / "wide-labels.png").unlink()
    assert segment(model, tmp_path, *files, "--no-overlay") == 0
    assert (tmp_path / "wide-overlay.png").read_text() == "precious"
    assert segment(model, tmp_path, *files, "--overwrite") == 0
    assert_written(tmp_path, "wide", images / "wide.tif", model)


def test_images_are_not_overwritten_even_if_asked(model, tmp_path, capsys):
    for name in ("cell.png", "cell-labels.png"):
        Image.fromarray(grey(20, 20)).save(tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    files = [tmp_path / "cell.png", tmp_path / "cell-labels.png"]
    refused(capsys, "cell-labels.png is one of the images", model, tmp_path, *files, "--overwrite")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def refused(capsys, message: str, model: str, output: Path, *arguments: object) -> None:
    capsys.readouterr()
    assert segment(model, output, *arguments) == cli.BAD_INPUT
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("sd-pipeline: ")
    assert message in line
    assert captured.out == ""


@pytest.fixture
def damaged(images, tmp_path) -> Path:
    """Files with something wrong."""
    folder = tmp_path / "damaged"
    (folder / "again").mkdir(parents=True)
    (folder / "text.png").write_text("no image")
    (folder / "short.png").write_bytes((images / "grey.png").read_bytes()[:400])
    stack = (images / "stack.tif").read_bytes()
    (folder / "short.tif").write_bytes(stack[: len(stack) // 2])
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(folder / "nan.tif")
    Image.fromarray(grey(9, 9)).save(folder / "stack-03.png")
    Image.fromarray(grey(9, 9)).save(folder / "again" / "grey.tif")
    (folder / "file").write_text("no folder")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: IMAGE"),
        (["GOOD", "nowhere.png"], "there is no file nowhere.png"),
        (["GOOD", "BAD"], "there is no file"),
        (["GOOD", "BAD/text.png"], "text.png is not an image, or damaged: cannot identify"),
        (["GOOD", "BAD/short.png"], "short.png` cannot be read"),
        (["GOOD", "BAD/short.tif"], "short.tif"),
        (["GOOD", "BAD/nan.tif"], "nan.tif: `images` is 'not finite"),
        (["GOOD", "GOOD"], "grey.png would both be written as grey-...: segment one alone"),
        (["GOOD", "BAD/again/grey.tif"], "again/grey.tif would both be written as grey-..."),
        (["STACK", "BAD/stack-03.png"], "stack-03.png would both be written as stack-03-..."),
        (["GOOD", "--output", "BAD/file"], "file is a file; --output must be a folder"),
        (["GOOD", "--output", "BAD/file/below"], "file is a file; --output must be a folder"),
        (["GOOD", "--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["GOOD", "--tile-size", "37"], "--tile-size 37: a side of 37 pixels does not fit 2 levels"),
        (["GOOD", "--tile-size", "-4"], "--tile-size -4: a side of -4 pixels does not fit"),
        (["GOOD", "--device", "abacus"], "--device abacus: "),
        (["GOOD", "--model", "no/such/model"], "'no/such/model' is neither a folder nor"),
        (["GOOD", "--model", "BAD"], "model_index.json is missing"),
        (["GOOD", "--prompt", "cells"], "unrecognized arguments: --prompt cells"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line_and_nothing_is_written(model, images, damaged, tmp_path, capsys, arguments, message):
    places = {"GOOD": str(images / "grey.png"), "STACK": str(images / "stack.tif")}
    words = [places.get(word, word.replace("BAD", str(damaged))) for word in arguments]
    refused(capsys, message, model, tmp_path / "out", *words)
    assert names_in(tmp_path) == ["damaged"]
    assert len(names_in(damaged)) == 7


def test_models_of_other_kinds(images, tmp_path, capsys):
    SDPipeline(**tiny_components()).save_pretrained(tmp_path / "pictures")
    message = "`_class_name` is 'StableDiffusionPipeline'; allowed: 'SegmentationPipeline'"
    refused(capsys, message, str(tmp_path / "pictures"), tmp_path / "out", images / "grey.png")
    cells = save_model(tmp_path / "cells")
    assert cli.main(["generate", "--model", cells, "--output", str(tmp_path / "a.png"), "--prompt", "x"]) == 2
    assert "is that of a SegmentationPipeline: it segments images" in capsys.readouterr().err
    assert names_in(tmp_path) == ["cells", "pictures"]


def test_a_network_that_gives_no_numbers_writes_nothing(images, tmp_path, capsys):
    unet = SegmentationUNet(1, 2, (4, 6))
    unet.conv_out.bias.data[0] = float("nan")
    SegmentationPipeline(unet=unet).save_pretrained(tmp_path / "model")
    message = "`unet` gives logits that are NaN or infinite"
    refused(capsys, message, str(tmp_path / "model"), tmp_path / "out", images / "grey.png")
    assert not (tmp_path / "out").exists()


def test_help_comes_without_heavy_imports():
    command = [sys.executable, "-X", "importtime", "-m", "sd_pipeline.cli", "segment", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0
    assert "NAME-probabilities.npy" in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "diffusers", "transformers", "PIL", "scipy"}
