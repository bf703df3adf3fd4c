"""A segmentation model goes to the Hub by every way there is, and gives the same there, bit for bit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sd_pipeline import SegmentationPipeline, SegmentationUNet
from sd_pipeline.cli import main
from sd_pipeline.publishing.manifest import write_manifest
from sd_pipeline.publishing.repository_files import RepositoryError
from tests.publishing.canary import canary
from tests.publishing.hub_pushes import NAME, commits_of, hub
from tests.source_files import ROOT

__all__ = ["hub"]

pytestmark = pytest.mark.hub

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FILES = {"README.md", "model_index.json", "unet/config.json", WEIGHTS}
CARD = "---\nlicense: apache-2.0\n---\n# Cells\n"

SEGMENT = """
import sys
import numpy as np
from sd_pipeline import SegmentationPipeline
name, image, out, variant = sys.argv[1:]
pipe = SegmentationPipeline.from_pretrained(name, variant=variant or None)
pipe.set_progress_bar_config(disable=True)
output = pipe(np.load(image))
assert pipe.config["class_names"] == ["background", "cell"]
np.savez(out, labels=output.labels[0], probabilities=output.probabilities[0], instances=output.instances[0])
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished model, with its card."""
    torch.manual_seed(0)
    unet = SegmentationUNet(1, 2, (4, 6), norm_type="batch")
    pipe = SegmentationPipeline(unet=unet, class_names=["background", "cell"], image_mean=0.5, image_std=0.25)
    pipe.save_pretrained(tmp_path / "cells")
    (tmp_path / "cells" / "README.md").write_text(CARD)
    return tmp_path / "cells"


@pytest.fixture
def found_by_commands(hub, monkeypatch):
    """Everything in this process that is given no address asks this Hub."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    )
    return hub


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (61, 83), dtype=np.uint8)


def environment(hub, place: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    own = {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(place / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT),
    }
    return {**kept, **own}


def segment_elsewhere(hub, place: Path, variant: str = "") -> dict[str, np.ndarray]:
    """Load the model by its name in a new process and segment."""
    np.save(place / "image.npy", image())
    files = [str(place / "image.npy"), str(place / "output.npz")]
    command = [sys.executable, "-c", SEGMENT, NAME, *files, variant]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=place, env=environment(hub, place), timeout=300
    )
    assert run.returncode == 0, run.stderr
    with np.load(files[1]) as stored:
        return {what: stored[what] for what in stored.files}


def assert_same(found: dict[str, np.ndarray], folder: Path, variant: str | None = None) -> None:
    pipe = SegmentationPipeline.from_pretrained(folder, variant=variant)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(image())
    np.testing.assert_array_equal(found["probabilities"], expected.probabilities[0])
    np.testing.assert_array_equal(found["labels"], expected.labels[0])
    np.testing.assert_array_equal(found["instances"], expected.instances[0])


def test_a_pushed_model_gives_the_same_bits(found_by_commands, hub, folder, tmp_path, capsys):
    assert main(["push", str(folder), "--repo-id", NAME]) == 0
    (commit,) = commits_of(hub)
    assert capsys.readouterr().out == f"{NAME} (main) holds the model, commit {commit.oid}\n"
    assert set(commit.content) == FILES
    assert_same(segment_elsewhere(hub, tmp_path), folder)
    Image.fromarray(image()).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "sd_pipeline.cli", "segment", "--model", NAME, "--output", "out", "a.png"]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment(hub, tmp_path), timeout=300
    )
    assert (run.returncode, run.stderr) == (0, "")
    expected = SegmentationPipeline.from_pretrained(folder)(image())
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/a-labels.png")), expected.labels[0])


def test_half_precision_is_pushed_beside(found_by_commands, hub, folder, tmp_path):
    assert main(["push", str(folder), "--repo-id", NAME, "--variant", "fp16"]) == 0
    (commit,) = commits_of(hub)
    assert set(commit.content) == {*FILES, "unet/diffusion_pytorch_model.fp16.safetensors"}
    assert_same(segment_elsewhere(hub, tmp_path), folder)
    assert_same(segment_elsewhere(hub, tmp_path, "fp16"), folder, "fp16")


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_the_ways_of_diffusers(found_by_commands, hub, folder, tmp_path, way):
    pipe = SegmentationPipeline.from_pretrained(folder)
    if way == "push_to_hub":
        pipe.push_to_hub(NAME)
    else:
        pipe.save_pretrained(tmp_path / "copy", push_to_hub=True, repo_id=NAME)
    content = hub.repositories[NAME].find("main").content
    assert set(content) == FILES
    assert content[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    assert str(tmp_path).encode() not in b"".join(content.values())
    assert_same(segment_elsewhere(hub, tmp_path), folder)


def nan(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["conv_out.bias"][0] = float("nan")
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_manifest(folder)


def overflow(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["conv_out.weight"][:] = 3e38
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_manifest(folder)


def other_class(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["os", "system"]}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (nan, "the weight 'conv_out.bias' is not finite: it is not published"),
        (overflow, "cannot be used by others: in a new process, ValueError: `unet` gives logits that are NaN"),
        (other_class, r"in a new process, RepositoryError: .*`unet` is \['os', 'system'\]"),
        (lambda folder: (folder / "unet/model.bin").write_bytes(b"pickle"), "model.bin is not published"),
        (lambda folder: (folder / "unet/sd_pipeline.py").write_text(""), "sd_pipeline.py is not published"),
    ],
)
def test_what_is_not_fit_for_others_is_not_pushed(found_by_commands, hub, folder, capsys, damage, message):
    damage(folder)
    assert main(["push", str(folder), "--repo-id", NAME]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sd-pipeline: ")
    assert re.search(message, line)
    assert hub.requests == []


def test_weights_beyond_half_precision_are_one_line(found_by_commands, hub, folder, capsys):
    overflow(folder)
    assert main(["push", str(folder), "--repo-id", NAME, "--variant", "fp16"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the weight 'conv_out.weight' is beyond 65504, the largest of float16" in line
    assert not list(folder.glob("unet/*fp16*"))
    assert hub.requests == []


@pytest.mark.parametrize("trick", ["another class", "pickles alone", "no weights"])
def test_strangers_on_the_hub(found_by_commands, hub, folder, tmp_path, trick):
    from huggingface_hub import HfApi

    messages = {"another class": "`unet` is .'os', 'system'", "pickles alone": "no safetensors, only other weights"}
    if trick == "another class":
        other_class(folder)
    else:
        (folder / WEIGHTS).unlink()
    if trick == "pickles alone":
        (folder / "unet/diffusion_pytorch_model.bin").write_bytes(canary(tmp_path / "mark"))
    api = HfApi(endpoint=hub.address)
    api.create_repo(NAME)
    api.upload_folder(repo_id=NAME, folder_path=folder)
    before = len(hub.requests)
    with pytest.raises(RepositoryError, match=messages.get(trick, "no safetensors|is missing")) as raised:
        SegmentationPipeline.from_pretrained(NAME, cache_dir=tmp_path / "cache")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "mark").exists()
    asked = [request.path for request in hub.requests[before:]]
    assert not any(path.endswith((".bin", ".py")) for path in asked)
    if trick == "another class":
        assert all("model_index.json" in path for path in asked if "/resolve/" in path), "nothing more is fetched"
