"""Packed layers compute what the layers do, whatever their kind, shape and memory layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sd_pipeline.models import packed_layers
from sd_pipeline.models.channels_last_norm import channels_last_group_norm
from sd_pipeline.models.packed_layers import PackedLayers


@pytest.mark.parametrize("is_mkl_fast", [False, True])
def test_packed_layers_follow_shapes_and_leave_others_alone(is_mkl_fast, monkeypatch):
    monkeypatch.setattr(packed_layers, "_is_mkl_fast", lambda: is_mkl_fast)
    torch.manual_seed(0)
    layers = {
        "convolution": (nn.Conv2d(64, 64, 3, padding=1), (64, 16, 16)),
        "strided": (nn.Conv2d(64, 128, 3, stride=2, padding=1), (64, 16, 16)),
        "dilated": (nn.Conv2d(64, 64, 3, dilation=2, bias=False), (64, 16, 16)),
        "grouped": (nn.Conv2d(64, 256, 3, groups=2), (64, 16, 16)),
        "circular": (nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular"), (64, 16, 16)),
        "same": (nn.Conv2d(64, 64, 3, padding="same"), (64, 16, 16)),
        "linear": (nn.Linear(128, 256), (64, 128)),
        "linear without bias": (nn.Linear(128, 256, bias=False), (64, 128)),
        "large linear": (nn.Linear(512, 512), (64, 512)),
        "pixelwise": (nn.Conv2d(64, 128, 1), (64, 16, 16)),
        "pixelwise and large": (nn.Conv2d(256, 256, 1, bias=False), (256, 16, 16)),
        "pixelwise and strided": (nn.Conv2d(64, 128, 1, stride=2), (64, 16, 16)),
        "pixelwise and padded": (nn.Conv2d(64, 128, 1, padding=1), (64, 16, 16)),
        "pixelwise and small": (nn.Conv2d(4, 4, 1), (4, 2, 2)),
        "norm": (nn.GroupNorm(4, 64), (64, 16, 16)),
        "norm of narrow groups": (_drawn(nn.GroupNorm(32, 64)), (64, 32, 48)),
        "norm of narrow groups without weights": (nn.GroupNorm(32, 64, affine=False), (64, 32, 48)),
        "norm of single channels": (_drawn(nn.GroupNorm(64, 64)), (64, 32, 48)),
    }
    run = PackedLayers(nn.ModuleList(layer for layer, _ in layers.values()))
    with torch.no_grad():
        for name, (layer, shape) in layers.items():
            for batch_size in (2, 3, 2, 1, 0):
                features = torch.randn(batch_size, *shape) + 0.5
                expected = layer(features)
                torch.testing.assert_close(run(layer, features), expected, rtol=1e-4, atol=1e-5, msg=name)
                if features.ndim == 4:
                    features = features.contiguous(memory_format=torch.channels_last)
                    torch.testing.assert_close(run(layer, features), expected, rtol=1e-4, atol=1e-5, msg=name)


def _drawn(norm: nn.GroupNorm) -> nn.GroupNorm:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def test_the_norm_of_narrow_groups_has_mean_and_variance_of_each():
    torch.manual_seed(0)
    norm = _drawn(nn.GroupNorm(8, 16, eps=0.0))
    features = (3 * torch.randn(2, 16, 9, 7) + 1).contiguous(memory_format=torch.channels_last)
    normed = channels_last_group_norm(norm, features)
    assert normed.is_contiguous(memory_format=torch.channels_last)
    plain = ((normed - norm.bias[:, None, None]) / norm.weight[:, None, None]).reshape(2, 8, -1)
    torch.testing.assert_close(plain.mean(2), torch.zeros(2, 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(plain.var(2, correction=0), torch.ones(2, 8), rtol=1e-4, atol=0)
