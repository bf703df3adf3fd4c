"""The command that measures a segmentation: on synthetic cells, on a folder; its card, its refusals, its processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from tests.secrets import leaks
from tests.training.evaluation.thresholding import thresholding_pipeline
from tests.training.test_evaluate_model import evaluated_by_two
from training.data.cells import CellsSource
from training.data.label_rules import separated
from training.evaluate_model import main

CARD = "---\nlicense: mit\n---\n# mine\n\n## Results\n\nNothing has been measured yet.\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pipeline"
    thresholding_pipeline(class_names=["background", "cell"]).save_pretrained(folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def separated_cells(tmp_path_factory) -> Path:
    """Make a data set whose images are white where its labels have cells, but for lines between them."""
    folder = tmp_path_factory.mktemp("data")
    for kind in ("images", "labels"):
        (folder / "validation" / kind).mkdir(parents=True)
    source = CellsSource("train", 3)
    for index in range(3):
        cells = source.labels(index)
        Image.fromarray(255 * separated(cells)).save(folder / "validation" / "images" / f"{index}.png")
        Image.fromarray(cells.astype("uint16")).save(folder / "validation" / "labels" / f"{index}.png")
    return folder


def read(file: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return results


def test_cells_are_fresh_ones(model, tmp_path, capsys):
    command = ["--model", str(model), "--suite", "segmentation", "--dataset", "cells", "--num-prompts", "2"]
    assert main([*command, "--seed", "4", "--output", str(tmp_path)]) == 0
    results = read(tmp_path / "segmentation.json")
    assert results["model"] == str(model)
    protocol = results["protocol"]
    assert (protocol["dataset"], protocol["dataset_split"], protocol["num_images"]) == ("cells", "test", 2)
    assert (protocol["label_type"], protocol["batch_size"], protocol["seed"]) == ("instances", 1, 4)
    source = CellsSource("test", 2, seed=4)
    assert [image["name"] for image in results["images"]] == [source.name(0), source.name(1)]
    assert [image["num_true"] for image in results["images"]] == [source.labels(i).max() for i in range(2)]
    assert "IoU of cell" in capsys.readouterr().out
    assert (tmp_path / "segmentation.png").is_file()


def test_a_folder_and_the_card(model, separated_cells, tmp_path):
    """Every pixel is as training would ask for it; measured again, results take their own place."""
    command = ["--model", str(model), "--suite", "segmentation", "--dataset", str(separated_cells), "--card"]
    command += ["--output", str(tmp_path)]
    assert main([*command, "--num-prompts", "1"]) == 0
    assert main([*command, "--tile-size", "260", "--batch-size", "3"]) == 0
    results = read(tmp_path / "segmentation.json")
    assert results["protocol"]["num_images"] == 3
    for name, measure in results["measures"].items():
        assert measure == results["ceiling"][name]
    assert results["measures"]["pixel_error"]["mean"] == 0.0
    assert results["measures"]["seg"]["mean"] > 0.9
    card = (model / "README.md").read_text(encoding="utf-8")
    assert leaks(card.encode(), [str(tmp_path), str(separated_cells.parent)]) == []
    assert card.count("### segmentation") == 1
    entries = ModelCard(card).data.eval_results
    kinds = ["mean_iou", "pixel_error", "seg", "merged_neighbours", "ap_50", "rand_error", "warping_error"]
    assert [entry.metric_type for entry in entries] == kinds
    for entry in entries:
        assert entry.metric_value == pytest.approx(results["measures"][entry.metric_type]["mean"], rel=1e-3)
        assert (entry.task_type, entry.task_name) == ("image-segmentation", "segmentation")
        assert entry.dataset_split == "validation"
        assert entry.dataset_name == f"{separated_cells.name}, 3 images"


def test_classes(model, separated_cells, tmp_path):
    """White on black is a mask of two classes too."""
    folder = tmp_path / "masks" / "validation"
    folder.mkdir(parents=True)
    for kind in ("images", "labels"):
        (folder / kind).symlink_to(separated_cells / "validation" / "images")
    command = ["--model", str(model), "--suite", "segmentation", "--label-type", "classes"]
    assert main([*command, "--dataset", str(tmp_path / "masks"), "--output", str(tmp_path)]) == 0
    results = read(tmp_path / "segmentation.json")
    assert results["ceiling"] is None
    assert "seg" not in results["measures"]
    assert {name: measure["mean"] for name, measure in results["measures"].items()} == {
        "pixel_error": 0.0,
        "rand_error": 0.0,
        "warping_error": 0.0,
        "mean_iou": 1.0,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--dataset is missing: --suite segmentation measures on a data set"),
        (["--dataset", "cells", "--num-prompts", "0"], "--num-prompts 0: allowed for cells: at least 1"),
        (["--dataset", "cells", "--tile-size", "4"], "--tile-size 4: "),
        (
            ["--dataset", "cells", "--dataset-split", "train"],
            "--dataset-split: allowed only with other data than cells",
        ),
        (["--dataset", "cells", "--label-type", "classes"], "--label-type: allowed only with other data than cells"),
        (["--dataset", "cells", "--scheduler", "ddim"], "--scheduler: allowed only with --suite shapes or"),
        (
            ["--dataset", "cells", "--caption-column", "a"],
            "--caption-column: allowed only with --suite captions",
        ),
        (["--dataset", "digits"], "data.dataset 'digits' has no labels"),
        (["--dataset", "/nowhere"], "data.dataset"),
    ],
)
def test_bad_input_is_one_line(model, arguments, message, capsys):
    assert main(["--model", str(model), "--suite", "segmentation", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1
    assert not (model.parent / "evaluation").exists()


def test_what_is_for_segmentations_is_refused_of_others(model, capsys):
    for option, value in (("--tile-size", "100"), ("--label-column", "x"), ("--label-type", "classes")):
        assert main(["--model", str(model), "--suite", "bits", "--dataset", "digits", option, value]) == 2
        assert capsys.readouterr().err == f"{option}: allowed only with --suite segmentation\n"


def test_a_split_without_images(model, separated_cells, capsys):
    folder = separated_cells / "validation"
    assert main(["--model", str(model), "--suite", "segmentation", "--dataset", str(folder)]) == 2
    assert capsys.readouterr().err.startswith("--dataset-split: has no images")


@pytest.mark.slow
def test_processes_share_the_work(model, tmp_path):
    """Three images, so that one process has more than the other."""
    arguments = ["--model", str(model), "--suite", "segmentation", "--dataset", "cells", "--num-prompts", "3"]
    arguments.append("--output")
    assert main([*arguments, str(tmp_path / "1")]) == 0
    run = evaluated_by_two([*arguments, str(tmp_path / "2")])
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("written:") == 1
    one, two = (read(tmp_path / number / "segmentation.json") for number in ("1", "2"))
    del one["seconds"], two["seconds"]
    assert one == two
    pictures = [(tmp_path / number / "segmentation.png").read_bytes() for number in ("1", "2")]
    assert pictures[0] == pictures[1]
