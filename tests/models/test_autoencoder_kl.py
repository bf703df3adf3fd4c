from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoModel
from safetensors.torch import load_file, save_file

from sd_pipeline import SDAutoencoderKL


def blocks(*widths: int) -> dict[str, tuple]:
    return {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }


TINY = {**blocks(16, 32), "norm_num_groups": 8, "sample_size": 16}
CONFIGS = {
    "defaults": {},
    "tiny": TINY,
    "stable-diffusion-1.5": {**blocks(128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512},
    "without quant convolutions, 16 channels": {
        **TINY,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "force_upcast": False,
    },
    "without attention, other activation": {**TINY, "mid_block_add_attention": False, "act_fn": "gelu"},
    "grey in, RGB out, narrowing": {
        **blocks(32, 16, 24),
        "norm_num_groups": 8,
        "in_channels": 1,
        "layers_per_block": 3,
    },
}


def images(channels: int = 3, size: int = 32, num: int = 2) -> torch.Tensor:
    return torch.rand(num, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def twins(config: dict) -> tuple[SDAutoencoderKL, AutoencoderKL]:
    """Our model and diffusers' with equal weights, none of them at a special value such as a norm's gain of 1."""
    torch.manual_seed(0)
    stock = AutoencoderKL(**config).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    ours = SDAutoencoderKL(**config).eval()
    ours.load_state_dict(stock.state_dict(), strict=True)
    return ours, stock


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_equals_diffusers_with_its_weights(config):
    ours, stock = twins(config)
    pixel_values = images(ours.config.in_channels)
    posterior, expected = ours.encode(pixel_values).latent_dist, stock.encode(pixel_values).latent_dist
    assert_close(posterior.mean, expected.mean)
    assert_close(posterior.logvar, expected.logvar)
    latents = expected.sample(torch.Generator().manual_seed(1))
    assert_close(posterior.sample(torch.Generator().manual_seed(1)), latents)
    assert_close(ours.decode(latents).sample, stock.decode(latents).sample)
    for sample_posterior in (False, True):
        arguments = {"sample_posterior": sample_posterior, "generator": torch.Generator().manual_seed(2)}
        reconstruction = ours(pixel_values, **arguments).sample
        arguments["generator"] = torch.Generator().manual_seed(2)
        assert_close(reconstruction, stock(pixel_values, **arguments).sample)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_our_weights_and_config_fit_diffusers(config):
    ours, stock = SDAutoencoderKL(**config), AutoencoderKL(**config)
    stock.load_state_dict(ours.state_dict(), strict=True)
    keys = {key for key in ours.config if not key.startswith("_")}
    assert keys - {"posterior"} == {key for key in stock.config if not key.startswith("_")}


def test_gradients_equal_diffusers():
    ours, stock = twins(TINY)
    pixel_values = images(size=16)
    for model in (ours, stock):
        posterior = model.encode(pixel_values).latent_dist
        latents = posterior.sample(torch.Generator().manual_seed(1))
        (model.decode(latents).sample.pow(2).mean() + 1e-3 * posterior.kl().mean()).backward()
    gradients = {name: parameter.grad for name, parameter in stock.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(3, 16), (3, 40), (1, 40)])
@torch.no_grad()
def test_slicing_and_tiling_equal_diffusers(size):
    num, side = size
    ours, stock = twins(TINY)
    pixel_values = images(size=side, num=num)
    whole = ours(pixel_values).sample
    for slicing, tiling in ((True, False), (False, True), (True, True)):
        for model in (ours, stock):
            (model.enable_slicing if slicing else model.disable_slicing)()
            (model.enable_tiling if tiling else model.disable_tiling)()
        moments, expected = (model.encode(pixel_values).latent_dist.parameters for model in (ours, stock))
        assert_close(moments, expected)
        latents = expected[:, :4].contiguous()
        assert_close(ours.decode(latents).sample, stock.decode(latents).sample)
    ours.disable_slicing()
    ours.disable_tiling()
    assert torch.equal(ours(pixel_values).sample, whole)


@torch.no_grad()
def test_tuples_equal_outputs():
    ours, _ = twins(TINY)
    pixel_values = images(size=16)
    posterior = ours.encode(pixel_values).latent_dist
    assert torch.equal(ours.encode(pixel_values, return_dict=False)[0].mean, posterior.mean)
    assert torch.equal(ours.decode(posterior.mean, return_dict=False)[0], ours.decode(posterior.mean).sample)
    assert torch.equal(ours(pixel_values, return_dict=False)[0], ours(pixel_values).sample)


@torch.no_grad()
def test_samples_of_a_batch_are_independent():
    ours, _ = twins(TINY)
    pixel_values = images(size=16, num=3)
    assert_close(ours(pixel_values).sample[1:2], ours(pixel_values[1:2]).sample)


@torch.no_grad()
def test_isotropic_posterior_has_one_sigma_an_image():
    _, stock = twins(TINY)
    ours = SDAutoencoderKL(**TINY, posterior="isotropic").eval()
    ours.load_state_dict(stock.state_dict(), strict=True)
    expected = stock.encode(images()).latent_dist
    posterior = ours.encode(images()).latent_dist
    assert_close(posterior.mean, expected.mean)
    logvar = expected.logvar.mean(dim=(1, 2, 3), keepdim=True)
    assert_close(posterior.logvar, logvar.expand_as(expected.logvar))
    assert not torch.allclose(logvar[0], logvar[1])


def gradients(model: SDAutoencoderKL) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(images(size=16)).sample.pow(2).mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_gradient_checkpointing_changes_no_gradient():
    model = SDAutoencoderKL(**TINY)
    expected = gradients(model)
    recomputed = []
    handle = model.encoder.mid_block.register_forward_pre_hook(lambda *_: recomputed.append(True))
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    actual = gradients(model)
    assert len(recomputed) == 2
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name
    model.disable_gradient_checkpointing()
    gradients(model)
    assert len(recomputed) == 3
    handle.remove()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision(dtype, tmp_path):
    ours, _ = twins(TINY)
    expected = ours(images()).sample
    half = ours.to(dtype)
    actual = half(images().to(dtype)).sample
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.1)
    half.save_pretrained(tmp_path)
    assert load_file(tmp_path / "diffusion_pytorch_model.safetensors")["quant_conv.weight"].dtype == dtype
    assert SDAutoencoderKL.from_pretrained(tmp_path, torch_dtype=dtype).dtype == dtype


def test_trains_under_autocast():
    model = SDAutoencoderKL(**TINY)
    expected = gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        actual = gradients(model)
    for name in expected:
        assert actual[name].dtype == torch.float32
        error = (actual[name] - expected[name]).norm()
        # Keys have no gradient along a shared shift: their bias has rounding noise only.
        assert error <= 0.1 * expected[name].norm() + 1e-4, name


LOAD_IN_A_NEW_PROCESS = """
import sys, torch
from sd_pipeline import SDAutoencoderKL
for folder in sys.argv[1:]:
    model = SDAutoencoderKL.from_pretrained(folder)
    assert not model.training
    pixel_values = torch.load(folder + "/pixel_values.pt")
    result = [model(pixel_values).sample.detach(), model.config.posterior, type(model).__module__]
    torch.save(result, folder + "/result.pt")
"""


def test_loads_in_a_new_process(tmp_path):
    models = {name: SDAutoencoderKL(**TINY, posterior=name).eval() for name in ("diagonal", "isotropic")}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        torch.save(images(), tmp_path / name / "pixel_values.pt")
    folders = [str(tmp_path / name) for name in models]
    subprocess.run([sys.executable, "-c", LOAD_IN_A_NEW_PROCESS, *folders], check=True)
    for name, model in models.items():
        sample, posterior, module = torch.load(tmp_path / name / "result.pt")
        assert torch.equal(sample, model(images()).sample)
        assert (posterior, module) == (name, "sd_pipeline")


@torch.no_grad()
def test_diffusers_loads_what_we_save(tmp_path, capfd):
    ours, _ = twins({**TINY, "scaling_factor": 0.9})
    ours.save_pretrained(tmp_path)
    expected = ours(images()).sample
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["_class_name"] == "AutoencoderKL"
    assert not {"posterior", "_name_or_path"} & written.keys()
    capfd.readouterr()
    for loader in (AutoencoderKL, AutoModel):
        loaded = loader.from_pretrained(str(tmp_path))  # AutoModel takes no Path
        assert type(loaded) is AutoencoderKL
        assert loaded.config.scaling_factor == 0.9
        assert_close(loaded(images()).sample, expected)
    assert "not expected" not in capfd.readouterr().err


@torch.no_grad()
def test_we_load_what_diffusers_saves(tmp_path):
    _, stock = twins({**TINY, "scaling_factor": 0.9})
    stock.save_pretrained(tmp_path)
    loaded = SDAutoencoderKL.from_pretrained(tmp_path)
    assert (loaded.config.posterior, loaded.config.scaling_factor) == ("diagonal", 0.9)
    assert_close(loaded(images()).sample, stock(images()).sample)
    # A component that was loaded and is saved again does not publish the folder that it came from.
    loaded.save_pretrained(tmp_path / "again")
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text()


@torch.no_grad()
def test_loads_the_attention_keys_of_2022(tmp_path):
    ours, stock = twins(TINY)
    stock.save_pretrained(tmp_path)
    weights_file = tmp_path / "diffusion_pytorch_model.safetensors"
    state_dict = load_file(weights_file)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        state_dict = {key.replace(f".{new}.", f".{old}."): value for key, value in state_dict.items()}
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in state_dict
    save_file(state_dict, weights_file, metadata={"format": "pt"})
    assert_close(SDAutoencoderKL.from_pretrained(tmp_path)(images()).sample, ours(images()).sample)


def test_config_round_trip():
    model = SDAutoencoderKL(**TINY, posterior="isotropic", scaling_factor=0.5)
    copy = SDAutoencoderKL.from_config(model.config)
    assert (copy.config.posterior, copy.config.scaling_factor) == ("isotropic", 0.5)
    assert AutoencoderKL.from_config(model.config).config.scaling_factor == 0.5


def test_unknown_keys_raise():
    with pytest.raises(TypeError, match="block_out_chanels"):
        SDAutoencoderKL(block_out_chanels=(32,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_out_channels": (16, 32, 32)}, "one length of at least 1, got 2, 2 and 3"),
        ({"up_block_types": ("UpDecoderBlock2D",)}, "one length of at least 1, got 2, 1 and 2"),
        ({"block_out_channels": (), "down_block_types": (), "up_block_types": ()}, "got 0, 0 and 0"),
        ({"block_out_channels": (16, 30)}, "divisible by norm_num_groups=8, got 30"),
        ({"block_out_channels": (16, 0)}, "block_out_channels must be an integer of at least 1, got 0"),
        ({"norm_num_groups": 0}, "norm_num_groups must be an integer of at least 1, got 0"),
        ({"layers_per_block": 0}, "layers_per_block must"),
        ({"latent_channels": -4}, "latent_channels must"),
        ({"in_channels": 1.5}, "in_channels must be an integer of at least 1, got 1.5"),
        ({"sample_size": 0}, "sample_size must be an integer of at least 1, got 0"),
        ({"act_fn": "sliu"}, "act_fn must be one of silu, swish, mish, gelu, relu, got 'sliu'"),
        ({"posterior": "full"}, "posterior must be one of diagonal, isotropic, cholesky, got 'full'"),
        (
            {"down_block_types": ("DownEncoderBlock2D", "DownBlock2D")},
            "must be one of DownEncoderBlock2D, got 'DownBlock2D'",
        ),
        ({"up_block_types": ("UpDecoderBlock2D", "UpBlock2D")}, "must be one of UpDecoderBlock2D, got 'UpBlock2D'"),
        ({"scaling_factor": 0.0}, "scaling_factor must be finite and above 0, got 0.0"),
        ({"scaling_factor": float("nan")}, "scaling_factor must be finite"),
        ({"latents_mean": (0.0,)}, "latents_mean must have latent_channels=4 values, got 1"),
        ({"latents_std": (1.0,) * 5}, "latents_std must have latent_channels=4 values, got 5"),
    ],
)
def test_impossible_values_raise_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        SDAutoencoderKL(**{**TINY, **change})
    assert "\n" not in str(error.value)


def test_a_folder_without_weights_is_named(tmp_path):
    SDAutoencoderKL(**TINY).save_config(tmp_path)
    with pytest.raises(OSError, match=Path(tmp_path).name):
        SDAutoencoderKL.from_pretrained(tmp_path)
