"""Runs of the segmentation stage: from annotated images to a repository, resumed, split, and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from sd_pipeline import SegmentationPipeline
from tests.training.runs import ROOT, rows, run_training, status, tiny_segmentation, train, write_config
from training.data.cell_scenes import sample_cells


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A whole run."""
    folder = tmp_path_factory.mktemp("segmentation")
    train(["--config", str(write_config(folder / "run.yaml", tiny_segmentation(folder / "run")))])
    return folder / "run"


def test_a_run_ends_with_a_repository_that_segments_in_a_fresh_process(finished, tmp_path):
    image = sample_cells(5, 0, 70)[0]
    Image.fromarray(image).save(tmp_path / "image.png")
    script = (
        "import sys, numpy as np\nfrom sd_pipeline import SegmentationPipeline\n"
        "pipe = SegmentationPipeline.from_pretrained(sys.argv[1])\npipe.set_progress_bar_config(disable=True)\n"
        "np.save(sys.argv[3], pipe(sys.argv[2]).probabilities[0])"
    )
    arguments = [str(finished / "pipeline"), str(tmp_path / "image.png"), str(tmp_path / "found.npy")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, cwd=tmp_path, timeout=120)
    pipe = SegmentationPipeline.from_pretrained(finished / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.config["class_names"] == ["background", "cell"]
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), pipe(image).probabilities[0])


def test_it_tells_what_it_learned(finished):
    assert status(finished)["state"] == "finished"
    losses = rows(finished, "segmentation")
    assert [row["step"] for row in losses] == [1, 2, 3, 4]
    assert all(row["loss"] > 0 and 0 <= row["pixel_error"] <= 1 for row in losses)
    lines = (finished / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    assert {"validation_seg", "validation_mean_iou", "validation_pixel_error", "validation_loss"} <= last.keys()
    assert len(list((finished / "weight_maps").iterdir())) >= 4


def test_the_card_says_what_it_is(finished):
    card = ModelCard.load(finished / "pipeline" / "README.md", ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (data["pipeline_tag"], data["library_name"]) == ("image-segmentation", "sd_pipeline")
    measured = {result["type"] for model in data["model-index"] for r in model["results"] for result in r["metrics"]}
    assert {"pixel_error", "mean_iou", "seg"} <= measured
    for told in (
        "4 annotated images",
        "w_0 = 10, sigma = 5 pixels",
        "background and cell",
        "unpadded",
        "evaluate_model",
    ):
        assert told in card.text, told
    assert "diffusion:" not in card.text
    assert "$" not in card.text
    assert (finished / "pipeline" / "samples.png").is_file()
    assert (finished / "pipeline" / "training_curve.png").is_file()


def test_the_same_command_again_does_nothing(finished):
    before = (finished / "metrics.jsonl").read_bytes()
    train(["--config", str(finished / "config.yaml")])
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_that_is_resumed_is_the_same_to_the_bit(finished, tmp_path, optimizer):
    for name, stops in (("straight", [4]), ("resumed", [2, 4])):
        values = tiny_segmentation(tmp_path / name)
        values["data"] |= {"dataloader_num_workers": len(stops) - 1}  # Workers change nothing either.
        config = write_config(tmp_path / f"{name}.yaml", values)
        for steps in stops:
            train(
                [
                    "--config",
                    str(config),
                    f"--segmentation.max_train_steps={steps}",
                    f"--segmentation.optimizer={optimizer}",
                ]
            )
    straight, resumed = weights_of(tmp_path / "straight"), weights_of(tmp_path / "resumed")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    if optimizer == "adamw":
        assert all(torch.equal(straight[name], tensor) for name, tensor in weights_of(finished).items())


def test_descent_with_momentum_is_that_of_torch(tmp_path):
    """The paper's recipe: what the trainer does in two updates is v <- m v + g, w <- w - lr v."""
    settings = {
        "use_ema": False,
        "optimizer": "sgd",
        "sgd_momentum": 0.99,
        "learning_rate": 0.01,
        "max_grad_norm": 1e9,
    }
    states = []
    for steps in (0, 1, 2):
        config = tiny_segmentation(tmp_path / str(steps))
        config["segmentation"] |= {**settings, "max_train_steps": steps, "max_grad_norm": 1e9}
        train(["--config", str(write_config(tmp_path / f"{steps}.yaml", config))])
        states.append(weights_of(tmp_path / str(steps)))
    momentum = load_file(next((tmp_path / "2" / "segmentation" / "checkpoint-2").glob("*optim*.safetensors")))
    name = "conv_out.weight"
    velocity = next(tensor for key, tensor in momentum.items() if name in key)
    torch.testing.assert_close(states[2][name], states[1][name] - 0.01 * velocity)
    first = (states[0][name] - states[1][name]) / 0.01
    assert not torch.equal(velocity, 0.99 * first)


def test_processes_and_accumulation_change_nothing(finished, tmp_path):
    config = tiny_segmentation(tmp_path / "split")
    config["segmentation"] |= {"train_batch_size": 1, "unet": {"block_out_channels": [4, 8], "dropout": 0.0}}
    whole = tiny_segmentation(tmp_path / "whole")
    whole["segmentation"]["unet"] = config["segmentation"]["unet"]
    train(["--config", str(write_config(tmp_path / "whole.yaml", whole))])
    train(["--config", str(write_config(tmp_path / "split.yaml", config))], num_processes=2)
    one, two = weights_of(tmp_path / "whole"), weights_of(tmp_path / "split")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4)
    for row, other in zip(
        rows(tmp_path / "whole", "segmentation"), rows(tmp_path / "split", "segmentation"), strict=True
    ):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)


def annotated_folder(folder: Path, size: int = 48, count: int = 2) -> Path:
    for number in range(count):
        image, instances = sample_cells(0, number, size)
        for kind, array in (("images", image), ("labels", instances.astype(np.uint16))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"{number}.png")
    return folder


def test_images_smaller_than_a_tile_are_trained_on_mirrored(tmp_path):
    config = tiny_segmentation(tmp_path / "run")
    config["data"] = {
        "dataset": str(annotated_folder(tmp_path / "data")),
        "resolution": 72,
        "validation_fraction": 0.5,
    }
    train(["--config", str(write_config(tmp_path / "run.yaml", config))])
    assert status(tmp_path / "run")["state"] == "finished"


def test_stacks_of_classes_are_trained_on(tmp_path):
    """The layout of ISBI 2012: white cells, black membranes, 30 pages, here 3."""
    folder = tmp_path / "isbi"
    folder.mkdir()
    scenes = [sample_cells(0, number, 64) for number in range(3)]
    for name, pages in (
        ("train-volume", [image for image, _ in scenes]),
        ("train-labels", [255 * (instances > 0).astype(np.uint8) for _, instances in scenes]),
    ):
        first, *others = map(Image.fromarray, pages)
        first.save(folder / f"{name}.tif", save_all=True, append_images=others)
    config = tiny_segmentation(tmp_path / "run")
    config["data"] = {"dataset": str(folder), "resolution": 32, "label_type": "classes", "validation_fraction": 0.3}
    train(["--config", str(write_config(tmp_path / "run.yaml", config))])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert "validation_rand_error" in json.loads(lines[-1])
    assert "validation_seg" not in json.loads(lines[-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"resolution": 33}}, "data.resolution: a side of 33 pixels does not fit 2 levels"),
        (
            {"segmentation": {"unet": {"block_out_channels": [4, 8], "num_classes": 3}}},
            "segmentation.unet.num_classes = 3: must be 2",
        ),
        ({"segmentation": {"unet": {"depth": 3}}}, "segmentation.unet: "),
        ({"segmentation": {"class_names": ["cell"]}}, "segmentation.class_names = ['cell']: must be 2 names"),
        ({"data": {"dataset": "digits"}}, "data.dataset = 'digits': must be 'cells', or a folder"),
        ({"data": {"dataset": "./not there"}}, "'./not there'"),
    ],
)
def test_bad_input_is_told_before_training(tmp_path, changes, message):
    config = tiny_segmentation(tmp_path / "run")
    for block, values in changes.items():
        config[block] = {**config[block], **values}
    process = run_training(["--config", str(write_config(tmp_path / "run.yaml", config))])
    assert process.returncode == 2, process.stderr
    assert message in process.stderr.strip().splitlines()[-1]


def test_labels_of_another_size_are_named(tmp_path):
    folder = annotated_folder(tmp_path / "data")
    Image.fromarray(np.zeros((10, 10), dtype=np.uint8)).save(folder / "labels" / "1.png")
    config = tiny_segmentation(tmp_path / "run")
    config["data"] = {"dataset": str(folder), "resolution": 32}
    process = run_training(["--config", str(write_config(tmp_path / "run.yaml", config))])
    assert process.returncode == 2
    assert "1.png" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_the_doctor_rehearses_it(tmp_path):
    file = write_config(tmp_path / "run.yaml", tiny_segmentation(tmp_path / "run"))
    command = [sys.executable, str(ROOT / "training" / "doctor.py"), "--config", str(file)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "4 annotated images" in process.stdout
