"""What is published: data of known kinds, and nothing that belongs to this machine or this person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sd_pipeline.pretrained_models import DEFAULT_MODEL
from sd_pipeline.publishing.repository_files import RepositoryError
from sd_pipeline.publishing.staging import publishable_files
from tests.source_files import ROOT

SECRET = "hf_" + "aB3" * 11


@pytest.fixture
def folder(tmp_path) -> Path:
    """Make a folder of every kind of file."""
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "README.md").write_text(
        "# Card\n\nhttps://example.org/home/tmp/a and pretrained/shapes-64, 3/4, and/or\n"
    )
    (folder / "samples.png").write_bytes(b"\x89PNG")
    (folder / "unet" / "config.json").write_text('{"in_channels": 4}')
    (folder / "merges.txt").write_text("/ home</w>\n/home</w>\nh f_\n")
    save_file({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.int64)}, folder / "unet" / "model.safetensors")
    return folder


def test_files_are_relative_and_sorted(folder):
    names = ["README.md", "merges.txt", "samples.png", "unet/config.json", "unet/model.safetensors"]
    assert [path.as_posix() for path in publishable_files(folder)] == names


def test_the_model_of_the_package_can_be_published():
    assert Path("unet/diffusion_pytorch_model.safetensors") in publishable_files(ROOT / DEFAULT_MODEL)


@pytest.mark.parametrize("name", ["model.bin", "run.py", "notes", ".env", "unet/.secret.json", "x.safetensors.tmp"])
def test_other_kinds_are_named(folder, name):
    (folder / name).write_text("x")
    with pytest.raises(RepositoryError, match=rf"{name} is not published; allowed: .safetensors, .json") as raised:
        publishable_files(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["link.json", "link.txt", "folder", "nothing.md"])
def test_links_are_refused(folder, name):
    target = folder / "unet" / "config.json" if name.startswith("link") else folder / "unet"
    (folder / name).symlink_to("missing" if name == "nothing.md" else target)
    with pytest.raises(RepositoryError, match=f"{name} is a link"):
        publishable_files(folder)


@pytest.mark.parametrize("kind", ["json", "md", "txt"])
@pytest.mark.parametrize(
    "text",
    [
        "{folder}/unet",
        "{home}/data",
        "/tmp/run",
        "/home/somebody/data",
        "/Users/somebody/data",
        "C:\\Users\\somebody",
        "file:///home/somebody",
    ],
)
def test_paths_of_this_machine_are_refused(folder, tmp_path, kind, text):
    (folder / f"x.{kind}").write_text(json.dumps({"path": text.format(folder=folder, home=Path.home())}))
    with pytest.raises(RepositoryError, match=rf"x.{kind} has the local path .* in it: it is not published"):
        publishable_files(folder)


@pytest.mark.parametrize("in_environment", [True, False])
def test_tokens_are_refused_and_not_repeated(folder, monkeypatch, in_environment):
    secret = "of-another-form-0" if in_environment else SECRET
    monkeypatch.setenv("HF_TOKEN", secret if in_environment else "")
    (folder / "README.md").write_text(f"token: {secret}\n")
    with pytest.raises(RepositoryError, match=r"README.md has a token of the Hub in it") as raised:
        publishable_files(folder)
    assert secret not in str(raised.value)


def test_metadata_of_weights_are_looked_at(folder):
    save_file({"a": torch.ones(2)}, folder / "unet" / "model.safetensors", metadata={"from": str(folder)})
    with pytest.raises(RepositoryError, match=r"has the local path .* in its metadata"):
        publishable_files(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(folder, value, dtype):
    save_file({"a": torch.ones(2), "b": torch.full((2,), value, dtype=dtype)}, folder / "unet" / "model.safetensors")
    with pytest.raises(RepositoryError, match="the weight 'b' is not finite"):
        publishable_files(folder)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: None])
def test_nothing_to_publish(tmp_path, make):
    make(tmp_path / "nothing")
    with pytest.raises(RepositoryError, match=r"is empty|is not a folder"):
        publishable_files(tmp_path / "nothing")


def test_damaged_weights_and_texts(folder):
    (folder / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(RepositoryError, match=r"README.md is no text in UTF-8"):
        publishable_files(folder)
    (folder / "README.md").unlink()
    (folder / "unet" / "model.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(RepositoryError, match="is not a safetensors file, or damaged"):
        publishable_files(folder)
