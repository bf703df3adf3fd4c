from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from diffusers import AutoModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor2_0, AttnProcessor

from sd_pipeline import SDUNet2DConditionModel
from sd_pipeline.models.unet_2d_condition import SDAttnProcessor

TINY: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
CONFIGS = {
    "stable-diffusion 1": TINY,
    "stable-diffusion 2": {
        **TINY,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "unconditional": {
        **TINY,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
    },
    "added keys": {
        **TINY,
        "down_block_types": ("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    },
    "rescaled mid block": {**TINY, "mid_block_scale_factor": 1.4142},
}


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(2, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": torch.randn(2, 7, 16, generator=generator),
    }


def twins(config: dict) -> tuple[SDUNet2DConditionModel, UNet2DConditionModel]:
    torch.manual_seed(0)
    stock = UNet2DConditionModel(**config).eval()
    ours = SDUNet2DConditionModel(**config).eval()
    ours.load_state_dict(stock.state_dict(), strict=True)
    return ours, stock


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_equals_diffusers_to_the_bit(config):
    ours, stock = twins(config)
    assert torch.equal(ours(**inputs()).sample, stock(**inputs()).sample)
    if "CrossAttnDownBlock2D" in config["down_block_types"]:
        masked = {**inputs(), "encoder_attention_mask": torch.tensor([[1] * 7, [1, 1, 1, 0, 0, 0, 0]])}
        assert torch.equal(ours(**masked).sample, stock(**masked).sample)
        assert not torch.equal(ours(**masked).sample, ours(**inputs()).sample)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs()).sample.float().pow(2).mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_gradients_equal_diffusers():
    ours, stock = twins(TINY)
    expected = gradients(stock)
    for name, gradient in gradients(ours).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


def test_gradient_checkpointing_changes_no_gradient():
    model, _ = twins(TINY)
    model.train()
    expected = gradients(model)
    model.enable_gradient_checkpointing()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, expected[name]), name


def test_autocast_is_as_close_to_float32_as_in_diffusers():
    ours, stock = twins(TINY)
    exact = gradients(stock)

    def error(model: torch.nn.Module) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = gradients(model)
        return sum((rounded[name] - exact[name]).pow(2).sum() for name in exact).sqrt().item()

    assert error(ours) < 1.2 * error(stock)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_equals_diffusers(dtype):
    ours, stock = (model.to(dtype) for model in twins(TINY))
    half = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs().items()}
    assert torch.equal(ours(**half).sample, stock(**half).sample)


def test_default_processors():
    ours, stock = twins(TINY)
    assert {type(processor) for processor in ours.attn_processors.values()} == {SDAttnProcessor}
    ours.set_attn_processor(AttnProcessor())
    ours.set_default_attn_processor()
    assert {type(processor) for processor in ours.attn_processors.values()} == {SDAttnProcessor}
    ours.fuse_qkv_projections()
    ours.unfuse_qkv_projections()
    assert torch.equal(ours(**inputs()).sample, stock(**inputs()).sample)
    added, _ = twins(CONFIGS["added keys"])
    assert {type(processor) for processor in added.attn_processors.values()} == {AttnAddedKVProcessor2_0}


LOAD_IN_A_NEW_PROCESS = """
import sys, torch
from sd_pipeline import SDUNet2DConditionModel
folder = sys.argv[1]
model = SDUNet2DConditionModel.from_pretrained(folder)
torch.save([model(**torch.load(folder + "/inputs.pt")).sample.detach(), type(model).__module__], folder + "/result.pt")
"""


def test_loads_in_a_new_process(tmp_path):
    model, _ = twins(TINY)
    model.save_pretrained(tmp_path)
    torch.save(inputs(), tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", LOAD_IN_A_NEW_PROCESS, str(tmp_path)], check=True)
    sample, module = torch.load(tmp_path / "result.pt")
    assert torch.equal(sample, model(**inputs()).sample)
    assert module == "sd_pipeline"


@torch.no_grad()
def test_diffusers_loads_what_we_save(tmp_path):
    ours, _ = twins(TINY)
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "UNet2DConditionModel"
    for loader in (UNet2DConditionModel, AutoModel):
        loaded = loader.from_pretrained(str(tmp_path))
        assert type(loaded) is UNet2DConditionModel
        assert torch.equal(loaded(**inputs()).sample, ours(**inputs()).sample)


@torch.no_grad()
def test_we_load_what_diffusers_saves(tmp_path):
    _, stock = twins(TINY)
    stock.save_pretrained(tmp_path)
    loaded = SDUNet2DConditionModel.from_pretrained(tmp_path)
    assert type(loaded) is SDUNet2DConditionModel
    assert loaded.config.cross_attention_dim == 16
    assert torch.equal(loaded(**inputs()).sample, stock(**inputs()).sample)
    assert SDUNet2DConditionModel.from_config(stock.config).config.norm_num_groups == 8


def test_unknown_keys_raise():
    with pytest.raises(TypeError, match="cross_attention_dims"):
        SDUNet2DConditionModel(**TINY, cross_attention_dims=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_out_channels": (16, 32, 32)}, "block_out_channels"),
        ({"block_out_channels": (15, 32)}, "divisible"),
        ({"act_fn": "sliu"}, "sliu"),
        ({"down_block_types": ("CrossAttnDownBlock", "DownBlock2D")}, "CrossAttnDownBlock"),
        ({"norm_num_groups": 0}, "norm_num_groups=0"),
        ({"attention_head_dim": 0}, "attention_head_dim=0"),
        ({"attention_head_dim": 64}, "attention_head_dim=64"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"layers_per_block": 0}, "layers_per_block must be at least 1, got 0"),
        ({"cross_attention_dim": 0}, "cross_attention_dim must be at least 1, got 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_impossible_values_raise_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        SDUNet2DConditionModel(**{**TINY, **change})
    assert "\n" not in str(error.value)
