"""The prepared U-Net computes what `forward` computes, with less work; and only where it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from peft import LoraConfig
from torch import nn

from benchmarks.kernel_counts import SD_1_5, Work, work_of
from sd_pipeline import SDUNet2DConditionModel
from sd_pipeline.models.packed_layers import call_layer
from sd_pipeline.models.plain_unet import attends_to_texts, can_be_prepared, state_of, version_of
from sd_pipeline.models.prepared_unet import PreparedUNet
from tests.components import HIDDEN_SIZE, tiny_unconditional_unet, tiny_unet

CROSS_ATTENTION_EVERYWHERE = {
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
WITHOUT_TEXT = {
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "mid_block_type": None,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "cross-attention everywhere": CROSS_ATTENTION_EVERYWHERE,
    "cross-attention late": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "cross-attention in the middle": {**WITHOUT_TEXT, "mid_block_type": "UNetMidBlock2DCrossAttn"},
    "stable-diffusion 2": {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
    "more layers": {"layers_per_block": 2, "transformer_layers_per_block": (2, 1)},
    "wide": {"block_out_channels": (64, 128), "sample_size": 16},
    "three resolutions": {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "inpainting": {"in_channels": 9},
    "learned variance": {"out_channels": 8},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift", "resnet_skip_time_act": True},
    "dropout": {"dropout": 0.3},
    "other numbers": {
        "mid_block_scale_factor": 1.4142,
        "resnet_out_scale_factor": 2.0,
        "downsample_padding": 0,
        "act_fn": "gelu",
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "time_embedding_dim": 24,
        "conv_in_kernel": 1,
        "conv_out_kernel": 1,
    },
}
TIMESTEPS = [torch.tensor([999, 3, 3]), torch.tensor([812.25, 3.5, 0.1])]


def inputs_of(unet: Any, batch_size: int, size: tuple[int, int] = (8, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    sample = torch.randn(batch_size, unet.config.in_channels, *size, generator=random).to(unet.dtype)
    return sample, torch.randn(2 * batch_size, 7, HIDDEN_SIZE, generator=random).to(unet.dtype)


def plain(unet: nn.Module, sample: torch.Tensor, timestep: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    sample = torch.cat([sample] * (len(texts) // len(sample)))
    output: torch.Tensor = unet(sample, timestep, encoder_hidden_states=texts, return_dict=False)[0]
    return output


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("run", [None, call_layer], ids=["packed", "as they are"])
@pytest.mark.parametrize("is_guided", [True, False], ids=["guided", "unguided"])
def test_equals_the_forward_pass(config, run, is_guided):
    unet = tiny_unet(**config)
    assert can_be_prepared(unet)
    for batch_size in (1, 3):
        sample, texts = inputs_of(unet, batch_size)
        texts = texts if is_guided else texts[:batch_size]
        for timesteps in TIMESTEPS:
            prepared = PreparedUNet(unet, timesteps, texts, run)
            assert prepared.fits(sample)
            for step, timestep in enumerate(timesteps):
                expected = plain(unet, sample, timestep, texts)
                made = prepared(sample, step)
                made = made if attends_to_texts(unet) else torch.cat([made] * (len(texts) // batch_size))
                torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (9, 12), (1, 1), (6, 4)])
@pytest.mark.parametrize("name", ["three resolutions", "stable-diffusion 2"])
def test_takes_every_size_one_after_the_other(size, name):
    unet = tiny_unet(**CONFIGS[name])
    texts = inputs_of(unet, 2)[1]
    prepared = PreparedUNet(unet, TIMESTEPS[0], texts)
    for one in (size, (8, 8), size):
        sample = inputs_of(unet, 2, one)[0]
        expected = plain(unet, sample, TIMESTEPS[0][1], texts)
        torch.testing.assert_close(prepared(sample, 1), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_half_precision_is_as_close_to_float32_as_the_forward_pass():
    unet = tiny_unet(**CONFIGS["wide"])
    sample, texts = inputs_of(unet, 2, (16, 16))
    exact = plain(unet, sample, TIMESTEPS[0][0], texts)
    unet.to(torch.bfloat16)
    sample, texts = sample.bfloat16(), texts.bfloat16()
    prepared = PreparedUNet(unet, TIMESTEPS[0], texts)
    made = prepared(sample, 0)
    assert made.dtype == torch.bfloat16
    error, error_of_plain = (
        (output - exact).square().mean() for output in (made, plain(unet, sample, TIMESTEPS[0][0], texts))
    )
    assert error < 1.5 * error_of_plain
    assert not prepared.fits(sample.float())


@torch.no_grad()
def test_the_same_inputs_give_the_same_bits():
    unet = tiny_unet(**CONFIGS["wide"])
    sample, texts = inputs_of(unet, 2, (16, 16))
    first, again = (PreparedUNet(unet, TIMESTEPS[0], texts) for _ in range(2))
    assert torch.equal(first(sample, 1), again(sample, 1))
    assert torch.equal(first(sample, 1), first(sample, 2)), "the timestep is the same"
    assert not torch.equal(first(sample, 0), first(sample, 1))


@torch.no_grad()
def test_weights_in_other_layouts():
    unet = tiny_unet(**CONFIGS["wide"])
    sample, texts = inputs_of(unet, 2, (16, 16))
    expected = plain(unet, sample, TIMESTEPS[0][0], texts)
    unet.to(memory_format=torch.channels_last)
    for layout in (torch.channels_last, torch.contiguous_format):
        made = PreparedUNet(unet, TIMESTEPS[0], texts)(sample.contiguous(memory_format=layout), 0)
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "targets",
    [
        ["to_q", "to_k", "to_v", "to_out.0"],
        ["conv1", "conv_shortcut", "time_emb_proj", "proj_in", "proj_out", "conv_in", "conv_out"],
        ["ff.net.0.proj", "ff.net.2", "linear_1", "linear_2"],
        ["downsamplers.0.conv", "upsamplers.0.conv"],
    ],
    ids=lambda targets: targets[0],
)
def test_adapters_are_applied(targets):
    unet = tiny_unet(**CONFIGS["wide"])
    sample, texts = inputs_of(unet, 2, (16, 16))
    without = plain(unet, sample, TIMESTEPS[0][0], texts)
    torch.manual_seed(2)
    unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    unet.eval()
    assert can_be_prepared(unet)
    expected = plain(unet, sample, TIMESTEPS[0][0], texts)
    assert (expected - without).abs().max() > 1e-3
    torch.testing.assert_close(PreparedUNet(unet, TIMESTEPS[0], texts)(sample, 0), expected, rtol=1e-4, atol=1e-4)
    assert state_of(unet) != state_of(unet), "adapters can be scaled and switched"


def transformer_block_of(unet: Any) -> Any:
    return unet.mid_block.attentions[0].transformer_blocks[0]


# Changes of a U-Net after which its forward pass is another, or may be.
CHANGES: dict[str, Any] = {
    "training": lambda unet: unet.train(),
    "training of one layer": lambda unet: unet.mid_block.attentions[0].train(),
    "processors": lambda unet: unet.set_attn_processor(AttnProcessor2_0()),
    "one processor": lambda unet: transformer_block_of(unet).attn2.set_processor(AttnProcessor()),
    "attention slicing": lambda unet: unet.set_attention_slice(1),
    "fused projections": lambda unet: unet.fuse_qkv_projections(),
    "chunked feed-forward": lambda unet: transformer_block_of(unet).set_chunk_feed_forward(2, 1),
    "FreeU": lambda unet: unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4),
    "hook": lambda unet: unet.mid_block.register_forward_hook(lambda module, args, output: output * 2),
    "hook before": lambda unet: unet.conv_out.register_forward_pre_hook(lambda module, args: (args[0] * 2,)),
    "group offloading": lambda unet: apply_group_offloading(
        unet, onload_device=torch.device("cpu"), offload_type="leaf_level"
    ),
    "layerwise casting": lambda unet: unet.enable_layerwise_casting(torch.bfloat16, torch.float32),
    "replaced forward": lambda unet: setattr(unet.conv_out, "forward", lambda features: features[:, :4]),
    "replaced layer": lambda unet: setattr(unet, "conv_act", _Square()),
    "replaced block": lambda unet: setattr(unet, "mid_block", _Scaled(unet.mid_block)),
    "compiled": lambda unet: unet.compile(backend="eager"),
    "compiled block": lambda unet: unet.mid_block.compile(backend="eager"),
    "weights of another kind": lambda unet: setattr(
        unet.conv_out, "weight", _Quantised(unet.conv_out.weight.detach())
    ),
}


class _Square(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.square()


class _Scaled(nn.Module):
    has_cross_attention = True

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.block(*args, **kwargs) * 2


class _Quantised(nn.Parameter):
    pass


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_network_is_not_prepared(change):
    unet = tiny_unet()
    assert can_be_prepared(unet)
    change(unet)
    assert not can_be_prepared(unet)


def test_accelerates_offloading_is_not_bypassed():
    accelerate = pytest.importorskip("accelerate")
    unet = tiny_unet()
    accelerate.hooks.add_hook_to_module(unet.mid_block, accelerate.hooks.AlignDevicesHook("cpu"))
    assert not can_be_prepared(unet)
    accelerate.hooks.remove_hook_from_module(unet.mid_block)
    assert can_be_prepared(unet)


def test_what_is_undone_is_as_it_was():
    unet = tiny_unet()
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    unet.disable_freeu()
    unet.set_attention_slice(1)
    unet.set_default_attn_processor()
    unet.fuse_qkv_projections()
    unet.unfuse_qkv_projections()
    unet.train().eval()
    assert can_be_prepared(unet)


OTHER_NETWORKS = {
    "classes": {"num_class_embeds": 10},
    "guidance as an input": {"time_cond_proj_dim": 8},
    "projected text": {"encoder_hid_dim": 12, "encoder_hid_dim_type": "text_proj"},
    "added text": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    },
    "centred": {"center_input_sample": True},
    "only cross-attention": {"only_cross_attention": True},
    "two texts": {"dual_cross_attention": True},
    "gated": {"attention_type": "gated"},
    "activated time": {"time_embedding_act_fn": "silu"},
    "normed text": {
        "cross_attention_norm": "layer_norm",
        "down_block_types": ("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "SimpleCrossAttnUpBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    },
}


@pytest.mark.parametrize("config", OTHER_NETWORKS.values(), ids=OTHER_NETWORKS)
def test_other_networks_are_not_prepared(config):
    assert not can_be_prepared(tiny_unet(**config))


def test_networks_of_other_classes_are_not_prepared():
    class Mine(SDUNet2DConditionModel):
        pass

    unet = tiny_unet()
    for other in (UNet2DConditionModel.from_config(unet.config).eval(), Mine.from_config(unet.config).eval()):
        assert not can_be_prepared(other)
    for other in (torch.compile(unet), nn.DataParallel(unet), nn.Conv2d(4, 4, 1), tiny_unconditional_unet()):
        assert not can_be_prepared(other)


def test_the_state_follows_layers_and_weights():
    unet = tiny_unet()
    state = state_of(unet)
    assert state_of(unet) == state
    with torch.no_grad():
        unet.conv_out.bias.add_(1)
    changed = state_of(unet)
    assert changed != state
    unet.conv_out = nn.Conv2d(16, 4, 3, padding=1)
    assert state_of(unet) != changed
    changed = state_of(unet)
    unet.to(torch.bfloat16)
    assert state_of(unet) != changed
    with torch.inference_mode():
        made_there = torch.zeros(1)
    assert version_of(made_there) != version_of(made_there), "nobody counts its changes"


def work(batch_size: int, length: int) -> tuple[Work, Work]:
    """Count a guided step of Stable Diffusion 1.5: the U-Net's, and the prepared one's."""
    with torch.device("meta"), torch.no_grad():
        unet = SDUNet2DConditionModel(**SD_1_5).eval()
        latents = torch.empty(batch_size, 4, 64, 64)
        texts = torch.empty(2 * batch_size, length, SD_1_5["cross_attention_dim"])
        timestep = torch.empty(1, dtype=torch.int64)
        prepared = PreparedUNet(unet, timestep, texts)
        both = torch.cat([latents] * 2)
        return work_of(lambda: unet(both, timestep, texts)), work_of(lambda: prepared(latents, 0))


def test_a_guided_step_of_stable_diffusion_is_less_work():
    plain_work, prepared_work = work(1, 77)
    # Two linear layers of each of 16 cross-attentions, and of each of 22 ResNet blocks an activation and a projection.
    assert prepared_work.kernels < plain_work.kernels - 2 * 16 - 2 * 22
    keys_and_values = 2 * 2 * 77 * 768 * 2 * (5 * 320 + 5 * 640 + 6 * 1280)
    # In the first resolution a convolution, a ResNet block, a self-attention and two projections are shared.
    self_attention = 2 * 2 * 4096**2 * 320 + 2 * 4096 * 6 * 320**2
    assert prepared_work.flop < plain_work.flop - keys_and_values - self_attention
    assert prepared_work.num_bytes < plain_work.num_bytes
