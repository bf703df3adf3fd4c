"""A run of the segmentation stage publishes what it makes, on the way and at the end, and goes on from the Hub."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from sd_pipeline import SegmentationPipeline
from tests.loopback_hub.hub import TOKEN, Hub
from tests.loopback_hub.server import loopback_hub
from tests.publishing.hub_pushes import write_folder
from tests.training.published_runs import NAME, Run
from tests.training.runs import tiny_segmentation
from training.background_pushes import BackgroundPushes
from training.config_io import parse_config
from training.data.cell_scenes import sample_cells
from training.engine.run_folder import RunFolder
from training.stages import build_task, load_data

pytestmark = [pytest.mark.slow, pytest.mark.hub]

WEIGHTS = "pipeline/unet/diffusion_pytorch_model.safetensors"
TO_THE_HUB = ["--hub.push_to_hub=true", f"--hub.hub_model_id={NAME}", "--hub.hub_strategy=checkpoint"]


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    """A Hub that this process and those it starts take for the only one."""
    with loopback_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name, value in (
            ("TOKEN", TOKEN),
            ("ENDPOINT", hub.address),
            ("HUB_OFFLINE", "0"),
            ("HUB_DISABLE_XET", "1"),
        ):
            monkeypatch.setenv(f"HF_{name}", value)
        yield hub


def test_a_finished_segmentation_is_on_the_hub(tmp_path, hub):
    run = Run(tmp_path, hub, tiny_segmentation)
    assert run.train() == 0, run.said
    run.check_published_once()
    run.check_secrets()
    content = hub.repositories[NAME].branches["main"][-1].content
    pipe = SegmentationPipeline.from_pretrained(write_folder(tmp_path / "there", content))
    assert pipe(sample_cells(0, 0, 48)[0]).labels[0].shape == (48, 48)


def test_what_is_sent_on_the_way_goes_on_elsewhere_to_the_same_weights(tmp_path, hub):
    stay = Run(tmp_path / "stay", hub, tiny_segmentation)
    stay.place.mkdir()
    assert stay.train("--segmentation.max_train_steps=2", push_to_hub=False) == 0, stay.said
    copied = tmp_path / "copied"
    shutil.copytree(stay.output_dir, copied)
    config = parse_config(["--config", str(stay.place / "run.yaml"), f"--output_dir={copied}", *TO_THE_HUB])
    folder = RunFolder(copied)
    task = build_task("segmentation", config, folder, torch.device("cpu"), *load_data(config))
    with BackgroundPushes(config, folder) as pushes:
        pushes.after_save(task, 2)
        wait_for_branches(hub, "training", "training-state")
    model = hub.repositories[NAME].branches["training"][-1].content
    assert b"segmentation U-Net in the middle of its training" in model["README.md"]
    assert SegmentationPipeline.from_pretrained(write_folder(tmp_path / "there", model)).config["class_names"]

    assert stay.train(push_to_hub=False) == 0, stay.said
    there = Run(tmp_path / "elsewhere", hub, tiny_segmentation)
    there.place.mkdir()
    assert there.train("--resume", f"hub:{NAME}@training-state", push_to_hub=False) == 0, there.said
    assert "segmentation: goes on from checkpoint-2" in there.said
    ours, theirs = (load_file(run.output_dir / WEIGHTS) for run in (stay, there))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def wait_for_branches(hub: Hub, *branches: str) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        there = hub.repositories[NAME].branches if NAME in hub.repositories else {}
        if all(any(c.description.startswith("Publication") for c in there.get(branch, [])) for branch in branches):
            return
        time.sleep(0.2)
    raise AssertionError(f"{branches} have not all been pushed")
