"""The 2015 U-Net against its paper: sizes, parameters, crops, what a pixel depends on, and the initialisation."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from sd_pipeline import SegmentationUNet
from sd_pipeline.models.segmentation_sizes import crop, input_size, margin, output_size, receptive_field
from sd_pipeline.models.segmentation_unet import centre_crop, initialise

PRINTED = (64, 128, 256, 512, 1024)
NARROW = (4, 8, 16)


def images(size: int, channels: int = 1, num: int = 2) -> torch.Tensor:
    return torch.rand(num, channels, size, size, generator=torch.Generator().manual_seed(0))


def unet(seed: int = 0, **config) -> SegmentationUNet:
    torch.manual_seed(seed)
    return SegmentationUNet(**{"block_out_channels": NARROW, **config}).eval()


def test_the_paper_s_network_has_its_sizes_and_31_million_parameters():
    with torch.device("meta"):
        model = SegmentationUNet()
        assert model(torch.empty(1, 1, 572, 572)).logits.shape == (1, 2, 388, 388)
    blocks = zip((1, *PRINTED), PRINTED, strict=False)
    down = sum(9 * before * width + width + 9 * width**2 + width for before, width in blocks)
    up = sum(4 * 2 * w * w + w + 9 * 2 * w * w + w + 9 * w * w + w for w in PRINTED[:-1])
    number = sum(parameter.numel() for parameter in model.parameters())
    assert number == down + up + 2 * PRINTED[0] + 2 == 31_030_658
    assert not any(isinstance(module, nn.Linear) for module in model.modules())


def test_feature_maps_are_those_of_the_printed_figure():
    """Sizes before each pooling and after each block of the expanding path, figure 1 of the paper."""
    with torch.device("meta"):
        model = SegmentationUNet()
        seen = []
        for block in (*model.down_blocks, *model.up_blocks):
            block.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:3])))
        model(torch.empty(1, 1, 572, 572))
    contracting = [(64, 568), (128, 280), (256, 136), (512, 64), (1024, 28)]
    assert seen == [*contracting, (512, 52), (256, 100), (128, 196), (64, 388)]
    assert [crop(level, 5) for level in range(4)] == [(568 - 392) / 2, (280 - 200) / 2, (136 - 104) / 2, (64 - 56) / 2]


@pytest.mark.parametrize("num_levels", [1, 2, 3, 4, 5])
@torch.no_grad()
def test_the_calculator_of_sizes_is_the_network_s(num_levels):
    model = unet(block_out_channels=(2,) * num_levels)
    least = input_size(1, num_levels)
    for size in range(least - 3, least + 2 ** (num_levels - 1) + 3):
        try:
            expected = output_size(size, num_levels)
        except ValueError:
            with pytest.raises(ValueError, match=f"a side of {size} pixels does not fit {num_levels} levels"):
                model(images(size))
        else:
            assert model(images(size)).logits.shape[-2:] == (expected, expected)
            assert size - expected == 2 * margin(num_levels)
    for wanted in range(1, 40):
        size = input_size(wanted, num_levels)
        smaller = size - 2 ** (num_levels - 1)
        assert output_size(size, num_levels) >= wanted
        assert smaller < least or output_size(smaller, num_levels) < wanted


@pytest.mark.parametrize("num_levels", [1, 2, 3, 4])
def test_the_receptive_field_is_where_gradients_reach(num_levels):
    model = unet(block_out_channels=(2,) * num_levels)
    model.pool = nn.AvgPool2d(2)  # A maximum depends on all four, and sends its gradient to one.
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    size, reached = input_size(2**num_levels, num_levels), []
    for place in range(2 ** (num_levels - 1)):
        pixel_values = images(size, num=1).requires_grad_()
        model(pixel_values).logits[0, 0, place, place].backward()
        columns = (pixel_values.grad[0, 0] != 0).any(0).nonzero().flatten()
        reached.append(int(columns[-1] - columns[0] + 1))
    assert max(reached) == receptive_field(num_levels)


@torch.no_grad()
def test_a_shifted_image_has_a_shifted_segmentation():
    """Without padding nothing depends on where the border is: overlapping tiles agree where they overlap."""
    model, shift = unet(), 4  # Two poolings.
    large = images(input_size(40, 3) + shift)
    size = input_size(40, 3)
    one, other = model(large[..., :size, :size]).logits, model(large[..., shift:, shift:]).logits
    torch.testing.assert_close(one[..., shift:, shift:], other[..., :-shift, :-shift], rtol=0, atol=1e-6)


def test_the_middle_is_cropped():
    x = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(centre_crop(x, torch.zeros(1, 5, 4, 6)), x[..., 2:6, 1:7])


def test_initial_weights_are_gaussian_of_variance_2_over_n():
    for module, nodes in (
        (nn.Conv2d(64, 200, 3), 576),
        (nn.Conv2d(512, 100, 1), 512),
        (nn.ConvTranspose2d(512, 100, 2, stride=2), 512),
    ):
        torch.manual_seed(0)
        initialise(module)
        weights = module.weight.detach().flatten()
        assert float(weights.std()) == pytest.approx(math.sqrt(2 / nodes), rel=0.02)
        kurtosis = float((weights / weights.std()).pow(4).mean())
        assert kurtosis == pytest.approx(3, abs=0.1)
        assert not module.bias.any()


@torch.no_grad()
def test_initial_feature_maps_keep_their_second_moment():
    model = unet(block_out_channels=(64, 64, 64))
    moments = []
    for block in (*model.down_blocks, *model.up_blocks):
        block.register_forward_hook(lambda module, inputs, output: moments.append(float(output.square().mean())))
    model(torch.randn(2, 1, 92, 92, generator=torch.Generator().manual_seed(0)))
    # Max-pooling, between them, takes the larger ones.
    assert all(0.5 < moment < 8 for moment in moments), moments


@torch.no_grad()
def test_options():
    padded = unet(is_padded=True, in_channels=3, num_classes=5)
    assert padded(images(32, channels=3)).logits.shape == (2, 5, 32, 32)
    with pytest.raises(ValueError, match=r"side of 30 pixels does not fit 3 levels; allowed: 4, 8, 12, ...; .* is 32"):
        padded(images(30, channels=3))
    for norm_type in ("batch", "group"):
        model = unet(norm_type=norm_type, norm_num_groups=2)
        assert model(images(60)).logits.shape == (2, 2, 20, 20)
        assert model.down_blocks[0].conv1.bias is None


def test_dropout_is_at_the_end_of_the_contracting_path():
    model = unet(dropout=0.5).train()
    with torch.no_grad():
        first, again = (model(images(60)).logits for _ in range(2))
        assert not torch.equal(first, again)
        model.upsamplers[0].weight.zero_()  # The only way on from there.
        first, again = (model(images(60)).logits for _ in range(2))
        assert torch.equal(first, again)


@torch.no_grad()
def test_a_saved_network_is_the_same_in_a_fresh_process(tmp_path):
    model = unet(seed=3, norm_type="group", norm_num_groups=4, num_classes=3)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == "SegmentationUNet"
    code = (
        "import sys, torch\n"
        "from sd_pipeline import SegmentationUNet\n"
        "model = SegmentationUNet.from_pretrained(sys.argv[1])\n"
        "x = torch.rand(2, 1, 60, 60, generator=torch.Generator().manual_seed(0))\n"
        "print(model.training, model(x).logits.double().sum().item())"
    )
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    training, total = told.stdout.split()
    assert training == "False"
    assert float(total) == pytest.approx(float(model(images(60)).logits.double().sum()), rel=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"in_channels": 0}, "in_channels must be an integer of at least 1, got 0"),
        ({"num_classes": 1.5}, "num_classes must be an integer of at least 1, got 1.5"),
        ({"block_out_channels": ()}, "block_out_channels must have at least one level, got none"),
        ({"block_out_channels": (1,) * 13}, "block_out_channels must have at most 12 levels, got 13"),
        ({"block_out_channels": (4, 0)}, "block_out_channels must be an integer of at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
        ({"norm_type": "layer"}, "norm_type must be one of batch, group or null, got 'layer'"),
        ({"norm_type": "group"}, "block_out_channels must be divisible by norm_num_groups=32, got 4"),
    ],
)
def test_impossible_values_are_refused(config, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        unet(**config)
