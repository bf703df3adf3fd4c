"""Stable Diffusion at its full size, with random weights: the same latents here and in diffusers, both ways."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from sd_pipeline import SDImg2ImgPipeline, SDInpaintPipeline, SDPipeline, SDUNet2DConditionModel
from tests.components import tiny_tokenizer

pytestmark = pytest.mark.slow

SIZE = 64  # The U-Net goes down to one latent.
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
TEXT_1 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT_2 = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
UNET_1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
UNET_2 = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "upcast_attention": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "SD-1.5": {"unet": UNET_1, "text": {**TEXT_1, "hidden_act": "quick_gelu"}},
    "SD-2.1": {"unet": UNET_2, "text": {**TEXT_2, "hidden_act": "gelu"}, "prediction_type": "v_prediction"},
    "SD-1.5-inpainting": {
        "unet": {**UNET_1, "in_channels": 9},
        "text": {**TEXT_1, "hidden_act": "quick_gelu"},
    },
}
# Every scheduler and every task once at this size; all pairs of them are compared on tiny models.
SCHEDULERS = {
    "text": (DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler),
    "image": (DPMSolverMultistepScheduler,),
    "inpaint": (DDIMScheduler,),
}
CALL: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 7.5, "output_type": "latent"}


def stock_components(name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = MODELS[name]
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type=model.get("prediction_type", "epsilon"),
    )
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 77
    return {
        "unet": UNet2DConditionModel(**model["unet"]).eval(),
        "vae": AutoencoderKL(**VAE).eval(),
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=49408, **model["text"])).eval(),
        "tokenizer": tokenizer,
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
    }


def picture_and_mask() -> tuple[Image.Image, Image.Image]:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    cells = np.zeros((SIZE // 8, SIZE // 8), dtype=np.uint8)
    cells[1:5, 2:7] = 255
    return picture, Image.fromarray(np.kron(cells, np.ones((8, 8), dtype=np.uint8)))


def all_latents(tasks: dict[str, Any], is_stock: bool) -> dict[str, torch.Tensor]:
    """Run every task of a model under its schedulers."""
    picture, mask = picture_and_mask()
    size = {"height": SIZE, "width": SIZE}
    found = {}
    for name, pipe in tasks.items():
        pipe.set_progress_bar_config(disable=True)
        own = {
            "text": size,
            "image": {"image": picture, "strength": 0.7},
            "inpaint": {"image": picture, "mask_image": mask, **(size if is_stock else {})},
        }[name]
        for scheduler in SCHEDULERS[name]:
            pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
            generator = torch.Generator().manual_seed(0)
            found[f"{name} {scheduler.__name__}"] = pipe("a red circle", generator=generator, **CALL, **own).images
    return found


def stock_tasks(name: str, components: dict[str, Any]) -> dict[str, Any]:
    quiet = {"requires_safety_checker": False}
    inpaint = StableDiffusionInpaintPipeline(**components, **quiet)
    if "inpainting" in name:
        return {"inpaint": inpaint}
    return {
        "text": StableDiffusionPipeline(**components, **quiet),
        "image": StableDiffusionImg2ImgPipeline(**components, **quiet),
        "inpaint": inpaint,
    }


def check_close(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, latents in expected.items():
        assert (ours[name] - latents).norm() <= 1e-4 * latents.norm(), name


@pytest.mark.parametrize("name", MODELS)
def test_latents_equal_those_of_diffusers_and_so_do_those_of_what_is_saved(name: str, tmp_path: Path) -> None:
    components = stock_components(name)
    tasks = stock_tasks(name, components)
    expected = all_latents(tasks, is_stock=True)
    tasks["inpaint" if "inpaint" in name else "text"].save_pretrained(tmp_path / "stock")
    del components, tasks
    gc.collect()

    pipe = SDPipeline.from_pretrained(tmp_path / "stock")
    assert type(pipe.unet) is SDUNet2DConditionModel
    ours = {"text": pipe, "image": SDImg2ImgPipeline.from_pipe(pipe), "inpaint": SDInpaintPipeline.from_pipe(pipe)}
    if "inpainting" in name:
        ours = {"inpaint": ours["inpaint"]}
    check_close(all_latents(ours, is_stock=False), expected)
    pipe.save_pretrained(tmp_path / "ours")
    del pipe, ours
    gc.collect()

    if "inpainting" in name:
        again = {"inpaint": AutoPipelineForInpainting.from_pretrained(tmp_path / "ours")}
        assert type(again["inpaint"]) is StableDiffusionInpaintPipeline
    else:
        text = AutoPipelineForText2Image.from_pretrained(tmp_path / "ours")
        again = {
            "text": text,
            "image": AutoPipelineForImage2Image.from_pipe(text),
            "inpaint": AutoPipelineForInpainting.from_pipe(text),
        }
    check_close(all_latents(again, is_stock=True), expected)
