"""Half precision beside float32, for diffusers and for this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from sd_pipeline import SDPipeline, SegmentationPipeline, SegmentationUNet
from sd_pipeline.publishing.repository import export_pipeline
from sd_pipeline.publishing.repository_files import RepositoryError
from sd_pipeline.publishing.variants import add_fp16_variant
from tests.components import tiny_components, tiny_unconditional_unet

UNET = "unet/diffusion_pytorch_model.safetensors"
WRITTEN = ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]


@pytest.fixture
def repository(tmp_path) -> Path:
    export_pipeline(tmp_path / "model", **tiny_components(), recommended_call={"num_inference_steps": 2})
    return tmp_path / "model"


def test_both_precisions_load_here_and_in_diffusers(repository):
    before = {path: path.read_bytes() for path in repository.glob("*/*.safetensors")}
    written = add_fp16_variant(repository)
    assert [path.relative_to(repository).as_posix() for path in written] == [f"{n}.fp16.safetensors" for n in WRITTEN]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len({path.stat().st_mode for path in repository.rglob("*.*") if path.is_file()}) == 1
    for pipeline_class in (DiffusionPipeline, SDPipeline):
        half = pipeline_class.from_pretrained(repository, variant="fp16", torch_dtype=torch.float16)
        whole = pipeline_class.from_pretrained(repository)
        for name in ("unet", "vae", "text_encoder"):
            assert getattr(half, name).dtype == torch.float16
            assert getattr(whole, name).dtype == torch.float32
            expected = getattr(whole, name).state_dict()
            assert all(
                torch.equal(value, expected[key].half()) for key, value in getattr(half, name).state_dict().items()
            )


def test_variant_is_in_the_manifest(repository):
    (path,) = [path for path in add_fp16_variant(repository) if path.parent.name == "unet"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    SDPipeline.from_pretrained(repository)
    with pytest.raises(RepositoryError, match=r"fp16.safetensors is damaged or was exchanged"):
        SDPipeline.from_pretrained(repository, variant="fp16")


def test_what_float16_cannot_hold_is_refused(repository):
    weights = load_file(repository / UNET)
    weights["conv_in.bias"][0] = 1e6
    save_file(weights, repository / UNET, metadata={"format": "pt"})
    with pytest.raises(RepositoryError, match=r"the weight 'conv_in.bias' is beyond 65504, the largest of float16"):
        add_fp16_variant(repository)
    assert not list(repository.glob("*/*fp16*"))


def test_models_of_pixels_and_of_shards(tmp_path):
    unet = tiny_unconditional_unet(in_channels=3, out_channels=3)
    export_pipeline(tmp_path / "pixels", unet=unet, scheduler=tiny_components()["scheduler"])
    assert len(add_fp16_variant(tmp_path / "pixels")) == 1
    half = SDPipeline.from_pretrained(tmp_path / "pixels", variant="fp16", dtype=torch.float16)
    assert half.unet.dtype == torch.float16
    SDPipeline(**tiny_components()).save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    with pytest.raises(RepositoryError, match=r"unet has its weights in \d files"):
        add_fp16_variant(tmp_path / "shards")


@pytest.mark.parametrize("norm_type", [None, "batch"])
def test_segmentation_in_half_precision(tmp_path, norm_type):
    torch.manual_seed(0)
    unet = SegmentationUNet(1, 2, (4, 6), norm_type=norm_type)
    SegmentationPipeline(unet=unet, image_mean=0.5, image_std=0.25).save_pretrained(tmp_path)
    (written,) = add_fp16_variant(tmp_path)
    assert written == tmp_path / "unet/diffusion_pytorch_model.fp16.safetensors"
    half = SegmentationPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    whole = SegmentationPipeline.from_pretrained(tmp_path)
    assert (half.unet.dtype, whole.unet.dtype) == (torch.float16, torch.float32)
    image = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    results = []
    for pipe in (half, whole):
        pipe.set_progress_bar_config(disable=True)
        results.append(pipe(image).probabilities[0])
    np.testing.assert_allclose(*results, atol=0.01)
    content = bytearray(written.read_bytes())
    content[-1] ^= 1
    written.write_bytes(content)
    with pytest.raises(RepositoryError, match=r"fp16.safetensors is damaged or was exchanged"):
        SegmentationPipeline.from_pretrained(tmp_path, variant="fp16")
