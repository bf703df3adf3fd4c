"""Whole runs on streamed digits, crashed and resumed. How they may be split is in `test_invariance.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.data.shards import write_digit_tars
from tests.training.runs import rows, run_training, status, tiny_config, write_config

STEPS = 7
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of all three stages on three tar files of 30 digits, in a global batch of 8, with workers."""
    folder = tmp_path_factory.mktemp("streamed")
    shards = write_digit_tars(folder / "shards", 3, 30)
    config = tiny_config(folder / "out")
    config["data"] = {
        "dataset": str(shards),
        "resolution": 32,
        "streaming": True,
        "shuffle_buffer_size": 20,
        "dataloader_num_workers": 1,
        "validation_fraction": 0.1,
    }
    config["diffusion"] |= {"cache_latents": False, "max_train_steps": STEPS, "checkpointing_steps": 3}
    config["diffusion"] |= {"checkpoints_total_limit": 10}
    file = write_config(folder / "run.yaml", config)
    process = run_training(["--config", str(file)])
    assert process.returncode == 0, process.stderr
    return file, folder / "out"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def losses(out: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows(out, "diffusion")]


def state(out: Path) -> dict[str, torch.Tensor]:
    files = (out / "diffusion" / f"checkpoint-{STEPS}").glob("*.safetensors")
    return {f"{file.stem}/{key}": value for file in files for key, value in load_file(file).items()}


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_that_crashed_goes_on_to_the_bit(finished, tmp_path, step):
    """As after a crash: the training states of later steps are missing, rows of the metrics are there."""
    config, out = finished
    crashed = tmp_path / "crashed"
    shutil.copytree(out, crashed)
    shutil.rmtree(crashed / "pipeline")
    shutil.rmtree(crashed / "diffusion" / "final", ignore_errors=True)
    (crashed / "diffusion" / "finished.json").unlink()
    for folder in (crashed / "diffusion").glob("checkpoint-*"):
        if int(folder.name.split("-")[1]) > step:
            shutil.rmtree(folder)
    process = run_training(["--config", str(config), f"--output_dir={crashed}", "--data.dataloader_num_workers=2"])
    assert process.returncode == 0, process.stderr
    assert status(crashed)["state"] == "finished"
    assert losses(crashed) == losses(out)
    expected, found = state(out), state(crashed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
