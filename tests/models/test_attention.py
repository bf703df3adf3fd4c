from __future__ import annotations

import math

import pytest
import torch

from sd_pipeline.models.attention import scaled_dot_product_attention


def make_qkv(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def attend_by_hand(query, key, value, bias=0.0):
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
    return scores.softmax(dim=-1) @ value


def test_is_the_formula():
    query, key, value = make_qkv()
    torch.testing.assert_close(scaled_dot_product_attention(query, key, value), attend_by_hand(query, key, value))


@pytest.mark.parametrize("autocast", [False, True])
def test_masks_hide_keys(autocast):
    query, key, value = make_qkv()
    keep = torch.tensor([True, True, True, False, False, True, True]).view(1, 1, 1, 7)
    bias = torch.zeros(1, 1, 1, 7).masked_fill(~keep, -10_000.0)
    expected = attend_by_hand(query, key, value, bias)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for mask in (keep.expand(2, 3, 5, 7), bias.expand(2, 3, 5, 7)):
            torch.testing.assert_close(scaled_dot_product_attention(query, key, value, mask), expected)


def test_runs_in_float32_under_autocast():
    """The result and the gradient are those of float32 arithmetic, rounded once."""
    query, key, value = make_qkv(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        attended = scaled_dot_product_attention(query, key, value)
    assert attended.dtype == torch.bfloat16
    expected = attend_by_hand(query.float(), key.float(), value.float())
    torch.testing.assert_close(attended.float(), expected, rtol=2**-8, atol=0)
    attended.float().pow(2).sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in (query, key, value))
