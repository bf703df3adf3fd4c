"""The U-Net's transformer: diffusers' bits, and under autocast its numbers up to rounding, adapters or not."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel as StockTransformer2DModel
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from sd_pipeline.models.layer_kinds import specialise_layers
from sd_pipeline.models.transformer_2d import Transformer2DModel
from tests.components import tiny_unet


def pair(use_linear_projection: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    stock = StockTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=16,
        norm_num_groups=4,
        cross_attention_dim=12,
        use_linear_projection=use_linear_projection,
    )
    ours = nn.Sequential(copy.deepcopy(stock))
    specialise_layers(ours)
    assert type(ours[0]) is Transformer2DModel
    return stock, ours[0]


def results(transformer: nn.Module, is_cast: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    transformer.zero_grad()
    features, texts = torch.randn(3, 16, 4, 6).requires_grad_(), torch.randn(3, 5, 12)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_cast):
        output = transformer(features, encoder_hidden_states=texts).sample
    output.backward(torch.randn_like(output))
    found = {"output": output.detach(), "features": features.grad}
    return found | {name: p.grad for name, p in transformer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("use_linear_projection", [False, True])
def test_without_autocast_it_is_diffusers_to_the_bit(use_linear_projection):
    expected, found = (results(transformer, is_cast=False) for transformer in pair(use_linear_projection))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("use_linear_projection", [False, True])
def test_under_autocast_outputs_and_gradients_differ_by_rounding(use_linear_projection):
    stock, ours = pair(use_linear_projection)
    exact, expected, found = results(stock, is_cast=False), results(stock, is_cast=True), results(ours, is_cast=True)
    assert exact.keys() == expected.keys() == found.keys()
    assert found["output"].is_contiguous()
    for name, value in exact.items():
        error, usual = (torch.linalg.vector_norm(other[name].float() - value) for other in (found, expected))
        assert error <= 2 * usual + 0.01 * torch.linalg.vector_norm(value), name


@pytest.mark.parametrize("target", ["proj_in", "proj_out"])
def test_adapters_of_its_convolutions_are_applied(target):
    _, ours = pair(use_linear_projection=False)
    config = LoraConfig(r=2, target_modules=[target], init_lora_weights=False)
    before = results(ours, is_cast=True)["output"]
    after = results(inject_adapter_in_model(config, ours), is_cast=True)["output"]
    assert (after.float() - before.float()).abs().max() > 0.01


def test_the_u_net_has_them():
    kinds = {type(m) for m in tiny_unet().modules() if isinstance(m, StockTransformer2DModel)}
    assert kinds == {Transformer2DModel}
