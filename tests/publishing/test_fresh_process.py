"""What is loaded and used in a new process before it is published."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sd_pipeline import SDInpaintPipeline, SDPipeline, SegmentationPipeline, SegmentationUNet
from sd_pipeline.publishing import fresh_process
from sd_pipeline.publishing.fresh_process import check_in_fresh_process, use_once
from sd_pipeline.publishing.manifest import write_manifest
from sd_pipeline.publishing.repository_files import RepositoryError
from tests.components import tiny_components, tiny_unconditional_unet, tiny_unet

UNET = "unet/diffusion_pytorch_model.safetensors"


def pipeline_of(kind: str) -> Any:
    unconditional = {"unet": tiny_unconditional_unet(), "text_encoder": None, "tokenizer": None}
    pixels = {"unet": tiny_unconditional_unet(in_channels=3, out_channels=3), "vae": None}
    changes = {
        "text-to-image": {},
        "inpainting": {"unet": tiny_unet(in_channels=9)},
        "unconditional": unconditional,
        "pixels": {**unconditional, **pixels},
    }[kind]
    pipeline_class = SDInpaintPipeline if kind == "inpainting" else SDPipeline
    return pipeline_class(**{**tiny_components(), **changes})


@pytest.mark.parametrize("kind", ["text-to-image", "inpainting", "unconditional", "pixels"])
def test_pipelines_are_used(tmp_path, kind):
    pipeline_of(kind).save_pretrained(tmp_path)
    use_once(tmp_path)


@pytest.mark.parametrize("name", ["vae", "text_encoder"])
def test_single_models_are_used(tmp_path, name):
    SDPipeline(**tiny_components()).save_pretrained(tmp_path)
    if name == "text_encoder":
        use_once(tmp_path / name)
        shutil.copytree(tmp_path / "tokenizer", tmp_path / name, dirs_exist_ok=True)
    use_once(tmp_path / name)


def test_images_that_are_not_finite_and_other_models(tmp_path):
    pipe = SDPipeline(**tiny_components())
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias[0] = float("nan")
    pipe.save_pretrained(tmp_path)
    with pytest.raises(RepositoryError, match="what it makes has NaN"):
        use_once(tmp_path)
    with pytest.raises(RepositoryError, match=r"config.json is of 'UNet2DConditionModel'; allowed: AutoencoderKL"):
        use_once(tmp_path / "unet")


def segmentation_pipeline(in_channels: int = 1, is_padded: bool = False) -> SegmentationPipeline:
    return SegmentationPipeline(unet=SegmentationUNet(in_channels, 3, (4, 6), is_padded=is_padded))


@pytest.mark.parametrize("in_channels", [1, 3, 5])
@pytest.mark.parametrize("is_padded", [False, True])
def test_segmentation_pipelines_are_used(tmp_path, in_channels, is_padded):
    segmentation_pipeline(in_channels, is_padded).save_pretrained(tmp_path)
    use_once(tmp_path)


@pytest.mark.parametrize("weight", [float("nan"), 3e38])
def test_segmentations_that_are_not_finite(tmp_path, weight):
    """Weights that are finite and overflow too."""
    pipe = segmentation_pipeline()
    torch.nn.init.constant_(pipe.unet.down_blocks[0].conv1.weight, weight)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`unet` gives logits that are NaN or infinite"):
        use_once(tmp_path)


def test_environment_has_no_token_and_no_network(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OTHER", "hf_secret")
    monkeypatch.setenv("WORLD_SIZE", "2")
    environment = fresh_process._environment()
    assert "hf_secret" not in environment.values()
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert "WORLD_SIZE" not in environment


@pytest.mark.slow
def test_a_new_process_says_what_is_wrong_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    SDPipeline(**tiny_components()).save_pretrained(folder)
    check_in_fresh_process(Path("model"))
    weights = load_file(folder / UNET)
    del weights["conv_in.bias"]
    save_file(weights, folder / UNET, metadata={"format": "pt"})
    write_manifest(folder)
    with pytest.raises(RepositoryError, match=r"in a new process, RepositoryError: .* lacks the weight") as raised:
        check_in_fresh_process(folder)
    assert "\n" not in str(raised.value)
