"""Whole runs on pictures of several shapes: made longer, split over processes, and what comes out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sd_pipeline import SDPipeline
from tests.training.data.image_folders import write_shapes
from tests.training.runs import rows, run_training, tiny_config, write_config
from training.train import main

SIZES = [(60, 34), (34, 60), (40, 40), (60, 34), (80, 50), (44, 40)] * 8
NUM_STEPS = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of all three stages on pictures of three shapes."""
    folder = tmp_path_factory.mktemp("buckets")
    data = {
        "dataset": str(write_shapes(folder / "images", SIZES)),
        "resolution": 32,
        "aspect_ratio_bucket_step": 8,
        "center_crop": False,
        "validation_fraction": 0.1,
    }
    config = tiny_config(folder / "out", data=data)
    config["diffusion"] |= {"cache_latents": False, "max_train_steps": NUM_STEPS}
    config["autoencoder"]["max_train_steps"] = NUM_STEPS
    for stage in ("autoencoder", "diffusion"):
        config[stage] |= {"checkpointing_steps": 5, "checkpoints_total_limit": None}
    file = write_config(folder / "run.yaml", config)
    assert main(["--config", str(file)]) == 0
    return file, folder / "out"


def with_autoencoder_of(out: Path, target: Path) -> Path:
    """Copy what the first two stages made."""
    shutil.copytree(out, target, ignore=lambda _, names: {"diffusion", "pipeline", "metrics.jsonl"} & set(names))
    return target


def weights(out: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(out / stage / f"checkpoint-{NUM_STEPS}" / "model.safetensors")


def test_the_model_generates_pictures_of_the_shapes_it_saw(run):
    _, out = run
    pipe = SDPipeline.from_pretrained(out / "pipeline")
    for width, height in [(32, 32), (40, 24), (24, 40)]:
        assert pipe("picture 1", width=width, height=height).images[0].size == (width, height)
    assert [row["step"] for row in rows(out, "text_encoder")] == [1, 2, 3, 4]


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_killed_run_goes_on_to_the_bit(run, tmp_path, stage):
    file, out = run
    target = tmp_path / "killed"
    later = {"diffusion", "pipeline"} if stage == "autoencoder" else {"pipeline"}
    shutil.copytree(out, target, ignore=lambda _, names: later & set(names))
    shutil.rmtree(target / stage / f"checkpoint-{NUM_STEPS}")
    shutil.rmtree(target / stage / "checkpoint-10")
    (target / stage / "finished.json").unlink()
    assert main(["--config", str(file), f"--output_dir={target}"]) == 0
    assert_same(out, target)


def test_a_run_that_is_made_longer_is_a_straight_one(run, tmp_path):
    """The learning rate of the autoencoder is constant, so that the number of steps to come changes nothing."""
    file, out = run
    for steps in (1, 7, NUM_STEPS):
        arguments = [f"--autoencoder.max_train_steps={steps}", "--stages=[autoencoder]"]
        assert main(["--config", str(file), f"--output_dir={tmp_path / 'longer'}", *arguments]) == 0
    assert_same(out, tmp_path / "longer", ["autoencoder"])


def assert_same(out: Path, target: Path, stages: Sequence[str] = ("autoencoder", "diffusion")) -> None:
    for stage in stages:
        expected, found = ({row["step"]: row["loss"] for row in rows(each, stage)} for each in (out, target))
        assert found == expected
        assert all(torch.equal(weights(target, stage)[key], value) for key, value in weights(out, stage).items())


def test_accumulation_trains_as_one_batch(run, tmp_path):
    file, out = run
    target = with_autoencoder_of(out, tmp_path / "accumulated")
    split = ["--diffusion.train_batch_size=2", "--diffusion.gradient_accumulation_steps=4"]
    assert main(["--config", str(file), f"--output_dir={target}", *split]) == 0
    assert_same_losses(out, target)


@pytest.mark.slow
def test_two_processes_train_as_one(run, tmp_path):
    file, out = run
    target = with_autoencoder_of(out, tmp_path / "two")
    arguments = ["--config", str(file), f"--output_dir={target}", "--diffusion.train_batch_size=4"]
    process = run_training(arguments, num_processes=2)
    assert process.returncode == 0, process.stderr
    assert_same_losses(out, target)


def assert_same_losses(out: Path, target: Path) -> None:
    one, other = (torch.tensor([row["loss"] for row in rows(each, "diffusion")]) for each in (out, target))
    assert len(one) == NUM_STEPS
    assert (one - other).abs().max() <= 1e-5
    for key, value in weights(out, "diffusion").items():
        torch.testing.assert_close(weights(target, "diffusion")[key], value, atol=1e-4, rtol=1e-3)
