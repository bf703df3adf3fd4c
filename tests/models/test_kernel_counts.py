"""The U-Net starts fewer kernels than that of diffusers, and computes the same to the bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D as StockResnetBlock2D
from peft import LoraConfig
from torch import nn

from benchmarks.kernel_counts import Work, work_of, work_of_unet
from sd_pipeline import SDUNet2DConditionModel
from sd_pipeline.models.layer_kinds import specialise_layers
from sd_pipeline.models.resnet_block import ResnetBlock2D
from tests.models.test_unet_2d_condition import TINY

UNCONDITIONAL = {
    **TINY,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
}
# Here ResNet blocks resample, and take the embedding with its activation.
RESAMPLING = {
    **TINY,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "resnet_skip_time_act": True,
    "time_embedding_act_fn": "silu",
}
CONFIGS = {
    "default": TINY,
    "scale and shift": {**TINY, "resnet_time_scale_shift": "scale_shift"},
    "dropout": {**TINY, "dropout": 0.3},
    "dropout, scale and shift": {**TINY, "dropout": 0.3, "resnet_time_scale_shift": "scale_shift"},
    "unconditional": UNCONDITIONAL,
    "unconditional, dropout": {**UNCONDITIONAL, "dropout": 0.3, "resnet_time_scale_shift": "scale_shift"},
    "resampling": {**RESAMPLING, "resnet_time_scale_shift": "scale_shift"},
    "divided by 2": {**RESAMPLING, "resnet_out_scale_factor": 2.0},
    "divided in the middle": {**TINY, "mid_block_scale_factor": 1.4142},
}


def results_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Run a training step of a U-Net on fixed inputs: its output, and the gradients."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, 8, 8, generator=generator)
    caption = torch.randn(2, 7, 16, generator=generator)
    model.zero_grad()
    torch.manual_seed(1)
    output = model(sample, torch.tensor([3, 700]), encoder_hidden_states=caption).sample
    (output - sample).square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **gradients}


def assert_equal_to_the_bit(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    assert len(ours) > 1
    assert [name for name in ours if not torch.equal(ours[name], expected[name])] == []


def twins(config: dict[str, Any]) -> tuple[SDUNet2DConditionModel, UNet2DConditionModel]:
    torch.manual_seed(0)
    stock = UNet2DConditionModel(**config)
    ours = SDUNet2DConditionModel(**config)
    ours.load_state_dict(stock.state_dict(), strict=True)
    return ours, stock


@pytest.mark.parametrize("is_training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_outputs_and_gradients_equal_diffusers_to_the_bit(config, is_training):
    ours, stock = (model.train(is_training) for model in twins(config))
    expected = results_of(stock)
    assert_equal_to_the_bit(results_of(ours), expected)
    ours.enable_gradient_checkpointing()
    assert_equal_to_the_bit(results_of(ours), expected)


def test_lora_in_the_blocks_equals_diffusers_to_the_bit():
    targets = ["conv1", "conv2", "conv_shortcut", "time_emb_proj", "to_q"]
    ours, stock = twins(TINY)
    for model in (ours, stock):
        torch.manual_seed(2)
        model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    assert any("conv_shortcut.lora_A" in name for name, _ in ours.named_parameters())
    assert_equal_to_the_bit(results_of(ours), results_of(stock))


def test_loaded_and_copied_models_have_the_blocks(tmp_path):
    ours, stock = twins(TINY)
    stock.save_pretrained(tmp_path)
    loaded = SDUNet2DConditionModel.from_pretrained(tmp_path)
    for model in (ours, loaded, copy.deepcopy(ours), SDUNet2DConditionModel.from_config(stock.config)):
        kinds = [type(module) for module in model.modules() if isinstance(module, StockResnetBlock2D)]
        assert set(kinds) == {ResnetBlock2D}
        assert len(kinds) == 8
    # Sharding looks for them by name.
    assert ResnetBlock2D.__name__ in SDUNet2DConditionModel._no_split_modules
    assert {type(module) for module in stock.modules()}.isdisjoint({ResnetBlock2D})


@pytest.mark.parametrize("batch_size", [2, 64])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"out_channels": 12},
        {"temb_channels": None},
        {"up": True, "time_embedding_norm": "scale_shift"},
        {"down": True, "skip_time_act": True},
        {"up": True, "kernel": "fir"},
        {"down": True, "kernel": "fir", "out_channels": 12},
        {"up": True, "kernel": "sde_vp", "out_channels": 12},
        {"down": True, "kernel": "sde_vp", "output_scale_factor": 1.4142},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_channels_last", [False, True])
def test_every_kind_of_block_equals_diffusers_to_the_bit(arguments, batch_size, is_channels_last):
    torch.manual_seed(0)
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    stock = StockResnetBlock2D(**{"in_channels": 8, "temb_channels": 16, "groups": 4, "dropout": 0.2, **arguments})
    ours = nn.Sequential(copy.deepcopy(stock))
    specialise_layers(ours)
    features = torch.randn(batch_size, 8, 4, 4).to(memory_format=layout)
    embedding = None if stock.time_emb_proj is None else torch.randn(batch_size, 16)

    def results(block: nn.Module) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        inputs = features.clone().requires_grad_()
        output = block(inputs, embedding)
        output.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
        return {"output": output.detach(), "inputs": inputs.grad, **gradients}

    assert type(ours[0]) is ResnetBlock2D
    expected = results(stock)
    assert_equal_to_the_bit(results(ours[0]), expected)
    assert results(ours[0])["output"].stride() == expected["output"].stride()


def test_a_block_that_scales_needs_an_embedding():
    block = nn.Sequential(
        StockResnetBlock2D(in_channels=8, groups=4, temb_channels=None, time_embedding_norm="scale_shift")
    )
    specialise_layers(block)
    with pytest.raises(ValueError, match="temb must be given where time_embedding_norm is 'scale_shift'"):
        block[0](torch.randn(1, 8, 4, 4), None)


@pytest.mark.parametrize(("is_training", "fewer"), [(False, 54), (True, 2 * 54)])
def test_stable_diffusion_starts_fewer_kernels_than_in_diffusers(is_training, fewer):
    """32 attentions and 22 ResNet blocks do not divide by 1.0, nor do their gradients."""
    ours, stock = (work_of_unet(kind, is_training) for kind in (SDUNet2DConditionModel, UNet2DConditionModel))
    assert ours.kernels <= stock.kernels - fewer
    assert ours.flop == stock.flop
    assert ours.num_bytes < stock.num_bytes


def test_what_is_counted():
    inputs, weights, bias = (torch.empty(*size, device="meta", requires_grad=True) for size in ((2, 3), (4, 3), (4,)))
    # The product is one kernel that reads 6 + 12 + 4 numbers and writes 8; the transpose and the reshape are views.
    with torch.no_grad():
        forward = work_of(lambda: nn.functional.linear(inputs, weights, bias).reshape(4, 2))
        in_place = work_of(lambda: inputs.view(6).add_(1))
        nothing = work_of(lambda: nn.functional.dropout(inputs, 0.0).detach())
    assert forward == Work(kernels=1, flop=2 * 2 * 3 * 4, num_bytes=4 * (6 + 12 + 4 + 8))
    assert in_place == Work(kernels=1, flop=0, num_bytes=4 * (6 + 6))
    assert nothing == Work(kernels=0, flop=0, num_bytes=0)


def test_attention_is_one_kernel():
    query, key = (torch.empty(2, 4, length, 8, device="meta", requires_grad=True) for length in (16, 7))
    products = 2 * 2 * 4 * 16 * 7 * 8

    def attend() -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, key)

    with torch.no_grad():
        work = work_of(attend)
    assert work.kernels == 1
    assert work.flop == 2 * products
    # Forward, the scores again, and the gradients of scores, values, queries and keys.
    assert work_of(lambda: attend().backward(torch.empty_like(query))).flop == 7 * products
