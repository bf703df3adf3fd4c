"""LoRA adapters load, scale, fuse and unload as in diffusers."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from packaging.version import Version
from transformers.integrations.peft import MIN_PEFT_VERSION

from sd_pipeline import SDImg2ImgPipeline, SDInpaintPipeline, SDPipeline
from tests.components import tiny_components
from tests.pictures import generator, hole, picture
from tests.pipelines.conftest import quiet

peft = pytest.importorskip("peft")

TEXT_ENCODER = pytest.param(
    True,
    id="unet and text_encoder",
    marks=pytest.mark.skipif(
        Version(version("peft")) < Version(MIN_PEFT_VERSION),
        reason=f"transformers takes adapters with peft {MIN_PEFT_VERSION} or later",
    ),
)
PROMPT = "a red circle"
CALL = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "latent"}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "model"
    SDPipeline(**tiny_components()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[pytest.param(False, id="unet"), TEXT_ENCODER])
def adapter(request, folder) -> Path:
    """A random adapter, written by diffusers."""
    stock = StableDiffusionPipeline.from_pretrained(folder)
    states = {}
    targets = {"unet": ["to_q", "to_k", "to_v", "to_out.0"]}
    if request.param:
        targets["text_encoder"] = ["q_proj", "k_proj", "v_proj", "out_proj"]
    random = generator(3)
    for name, modules in targets.items():
        model = getattr(stock, name)
        model.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=modules))
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=random)
        states[name] = convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(model))
    target = folder.parent / f"adapter-{request.param}"
    StableDiffusionPipeline.save_lora_weights(
        target, unet_lora_layers=states["unet"], text_encoder_lora_layers=states.get("text_encoder")
    )
    return target


@pytest.fixture
def ours(folder) -> SDPipeline:
    return quiet(SDPipeline.from_pretrained(folder))


@pytest.fixture
def stock(folder) -> StableDiffusionPipeline:
    return quiet(StableDiffusionPipeline.from_pretrained(folder))


def latents_of(pipe, **kwargs) -> torch.Tensor:
    return pipe(PROMPT, generator=generator(), **{**CALL, **kwargs}).images


def test_an_adapter_acts_as_in_diffusers_at_any_scale_and_goes_without_a_trace(ours, stock, adapter):
    before = latents_of(ours)
    for pipe in (ours, stock):
        pipe.load_lora_weights(adapter, adapter_name="style")
    changed = latents_of(ours)
    assert (changed - before).abs().max() > 0.1
    torch.testing.assert_close(changed, latents_of(stock), **CLOSE)
    for scale in (0.5, 0.0):
        scaled = latents_of(ours, cross_attention_kwargs={"scale": scale})
        torch.testing.assert_close(scaled, latents_of(stock, cross_attention_kwargs={"scale": scale}), **CLOSE)
    torch.testing.assert_close(scaled, before, **CLOSE)
    torch.testing.assert_close(latents_of(ours), changed, rtol=0, atol=0)
    for pipe in (ours, stock):
        pipe.set_adapters(["style"], adapter_weights=[0.3])
    torch.testing.assert_close(latents_of(ours), latents_of(stock), **CLOSE)
    assert ours.get_active_adapters() == stock.get_active_adapters() == ["style"]
    ours.disable_lora()
    # Layers with a switched off adapter are called as they are, without it they are packed.
    torch.testing.assert_close(latents_of(ours), before, **CLOSE)
    ours.enable_lora()
    ours.unload_lora_weights()
    assert torch.equal(latents_of(ours), before)


def test_fused_and_back(ours, stock, adapter):
    before = latents_of(ours)
    for pipe in (ours, stock):
        pipe.load_lora_weights(adapter)
    loaded = latents_of(ours)
    for pipe in (ours, stock):
        pipe.fuse_lora()
    torch.testing.assert_close(latents_of(ours), loaded, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(latents_of(ours), latents_of(stock), **CLOSE)
    ours.unfuse_lora()
    torch.testing.assert_close(latents_of(ours), loaded, rtol=1e-3, atol=1e-3)
    ours.unload_lora_weights()
    torch.testing.assert_close(latents_of(ours), before, rtol=1e-3, atol=1e-3)


def test_a_pipeline_that_had_an_adapter_is_saved_as_it_was(ours, adapter, folder, tmp_path):
    before = latents_of(ours)
    ours.load_lora_weights(adapter)
    ours.unload_lora_weights()
    ours.save_pretrained(tmp_path)
    assert torch.equal(latents_of(quiet(SDPipeline.from_pretrained(tmp_path))), before)
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_fused_pipeline_is_saved_with_its_adapter(ours, adapter, tmp_path):
    ours.load_lora_weights(adapter)
    ours.fuse_lora()
    ours.unload_lora_weights()
    fused = latents_of(ours)
    ours.save_pretrained(tmp_path)
    torch.testing.assert_close(latents_of(quiet(SDPipeline.from_pretrained(tmp_path))), fused)
    torch.testing.assert_close(latents_of(quiet(StableDiffusionPipeline.from_pretrained(tmp_path))), fused, **CLOSE)


def test_adapters_in_other_tasks(ours, adapter):
    img2img, inpaint = quiet(SDImg2ImgPipeline.from_pipe(ours)), quiet(SDInpaintPipeline.from_pipe(ours))
    calls = [(img2img, {"image": picture()}), (inpaint, {"image": picture(), "mask_image": hole()})]
    before = [latents_of(pipe, **call) for pipe, call in calls]
    inpaint.load_lora_weights(adapter)
    for (pipe, call), plain in zip(calls, before, strict=True):
        assert (latents_of(pipe, **call) - plain).abs().max() > 1e-2
        switched_off = latents_of(pipe, **call, cross_attention_kwargs={"scale": 0.0})
        torch.testing.assert_close(switched_off, plain, **CLOSE)
    img2img.unload_lora_weights()
    for (pipe, call), plain in zip(calls, before, strict=True):
        assert torch.equal(latents_of(pipe, **call), plain)
