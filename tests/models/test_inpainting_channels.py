"""A U-Net that inpaints: its mask in latents, and how it is grown from one that does not."""

from __future__ import annotations

import pytest
import torch

from sd_pipeline import SDUNet2DConditionModel
from sd_pipeline.models.inpainting_channels import grow_for_inpainting, latent_mask
from tests.components import HIDDEN_SIZE, MAX_LENGTH, tiny_unet


def test_a_latent_is_repainted_where_any_of_its_pixels_is():
    mask = torch.zeros(2, 1, 16, 24)
    mask[0, 0, 3, 4] = 1
    mask[1, 0, 15, 20:] = 1
    reduced = latent_mask(mask, 4)
    assert reduced.shape == (2, 1, 4, 6)
    assert reduced[0].nonzero().tolist() == [[0, 0, 1]]
    assert reduced[1].nonzero().tolist() == [[0, 3, 5]]
    assert torch.equal(latent_mask(mask, 1), mask)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_grown_network_predicts_the_same_whatever_the_mask(dtype):
    unet = tiny_unet().to(dtype)
    grown = grow_for_inpainting(unet)
    assert type(grown) is SDUNet2DConditionModel
    assert grown.config["in_channels"] == 9
    assert grown.dtype == dtype
    generator = torch.Generator().manual_seed(0)
    latents, added = torch.randn(2, 9, 8, 8, generator=generator).to(dtype).split([4, 5], dim=1)
    text = torch.randn(2, MAX_LENGTH, HIDDEN_SIZE, generator=generator).to(dtype)
    expected = unet(latents, 500, text).sample
    actual = grown(torch.cat([latents, added], dim=1), 500, text).sample
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_the_new_channels_learn_and_the_old_network_is_left_alone():
    unet = tiny_unet()
    before = unet.conv_in.weight.clone()
    grown = grow_for_inpainting(unet)
    grown(torch.randn(1, 9, 8, 8), 3, torch.randn(1, MAX_LENGTH, HIDDEN_SIZE)).sample.square().mean().backward()
    assert grown.conv_in.weight.grad[:, 4:].abs().min() > 0
    assert torch.equal(unet.conv_in.weight, before)
    assert not grown.conv_in.weight[:, 4:].any()


def test_what_cannot_be_grown():
    with pytest.raises(ValueError, match="9 input and 4 output channels cannot be made to inpaint"):
        grow_for_inpainting(tiny_unet(in_channels=9))
