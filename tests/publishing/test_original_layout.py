"""Names in single files: what diffusers' converters, written by others, read back, at the published sizes."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig, CLIPTextModel

from sd_pipeline import SDAutoencoderKL, SDUNet2DConditionModel
from sd_pipeline.publishing.original_families import SD_1, SD_2, VAE, VAE_STRUCTURE
from sd_pipeline.publishing.original_layout import unet_key_map, vae_key_map, weights_by_original_name
from sd_pipeline.publishing.original_weights import _renamed

FAMILIES = pytest.mark.parametrize("family", [SD_1, SD_2], ids=["1.x", "2.x"])


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@FAMILIES
@pytest.mark.parametrize("in_channels", [4, 9])
def test_unet(family, in_channels):
    with torch.device("meta"):
        unet = SDUNet2DConditionModel(**family.unet, in_channels=in_channels)
    if in_channels == 4:
        # As published: https://arxiv.org/abs/2112.10752 says 860M, of 1.x.
        assert sum(p.numel() for p in unet.parameters()) == {"1": 859_520_964, "2": 865_910_724}[family.version]
    original = _renamed("unet", unet.state_dict(), unet_key_map())
    assert len(original) == len(unet.state_dict()) == 686
    is_linear = family is SD_2
    assert original["model.diffusion_model.input_blocks.1.1.proj_in.weight"].ndim == (2 if is_linear else 4)
    assert shapes(single_file_utils.convert_ldm_unet_checkpoint(original, unet.config)) == shapes(unet.state_dict())


def test_names_of_the_unet_one_by_one():
    """The places where levels, layers and blocks are counted differently."""
    key_map = unet_key_map()
    expected = {
        "conv_in.weight": "input_blocks.0.0.weight",
        "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.0.op.bias",
        "down_blocks.1.attentions.0.norm.weight": "input_blocks.4.1.norm.weight",
        "down_blocks.3.resnets.1.conv2.weight": "input_blocks.11.0.out_layers.3.weight",
        "mid_block.resnets.1.time_emb_proj.weight": "middle_block.2.emb_layers.1.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.2.upsamplers.0.conv.weight": "output_blocks.8.2.conv.weight",
        "up_blocks.3.resnets.2.conv_shortcut.weight": "output_blocks.11.0.skip_connection.weight",
    }
    found = weights_by_original_name(list(expected), key_map)
    assert found == {f"model.diffusion_model.{name}": [ours] for ours, name in expected.items()}


def test_autoencoder():
    with torch.device("meta"):
        vae = SDAutoencoderKL(**VAE_STRUCTURE, **VAE)
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    original = _renamed("vae", vae.state_dict(), vae_key_map())
    assert len(original) == len(vae.state_dict()) == 248
    assert original["first_stage_model.decoder.mid.attn_1.proj_out.weight"].shape == (512, 512, 1, 1)
    assert "first_stage_model.decoder.up.3.upsample.conv.weight" in original
    assert "first_stage_model.decoder.up.0.upsample.conv.weight" not in original
    assert shapes(single_file_utils.convert_ldm_vae_checkpoint(original, vae.config)) == shapes(vae.state_dict())


@FAMILIES
def test_text_encoder(family):
    with torch.device("meta"):
        text_encoder = CLIPTextModel(CLIPTextConfig(**family.text_encoder))
    parameters = sum(p.numel() for p in text_encoder.parameters())
    assert parameters == {"1": 123_060_480, "2": 340_387_840}[family.version]
    key_map = family.text_key_map(family.text_encoder["num_hidden_layers"])
    original = _renamed("text_encoder", text_encoder.state_dict(), key_map)
    if family is SD_1:
        assert single_file_utils.is_clip_model(original)
        converted = single_file_utils.convert_ldm_clip_checkpoint(original)
    else:
        assert single_file_utils.is_open_clip_model(original)
        converted = single_file_utils.convert_open_clip_checkpoint(text_encoder, original)
    converted = {name.removeprefix("text_model."): tensor for name, tensor in converted.items()}
    assert shapes(converted) == shapes(text_encoder.state_dict())


@FAMILIES
def test_diffusers_takes_the_files_for_what_they_are(family):
    with torch.device("meta"):
        unets = {n: SDUNet2DConditionModel(**family.unet, in_channels=n) for n in (4, 9)}
    kinds = {
        n: single_file_utils.infer_diffusers_model_type(_renamed("unet", unet.state_dict(), unet_key_map()))
        for n, unet in unets.items()
    }
    assert kinds == ({4: "v1", 9: "inpainting"} if family is SD_1 else {4: "v2", 9: "inpainting_v2"})
