"""From task to task, and between repositories of this package and of diffusers for all of them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)

from sd_pipeline import (
    SDAutoencoderKL,
    SDDDPMScheduler,
    SDImg2ImgPipeline,
    SDInpaintPipeline,
    SDOutpaintPipeline,
    SDPipeline,
    SDUNet2DConditionModel,
)
from tests.components import tiny_components, tiny_unconditional_unet, tiny_unet
from tests.pictures import as_picture, checkered_hole, generator, picture
from tests.pipelines.conftest import quiet
from tests.pipelines.test_loading import run

PROMPT = "a red circle"
STOCK = {"num_inference_steps": 3, "guidance_scale": 4.0}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
MASK = as_picture(checkered_hole())
CLASSES = [SDPipeline, SDImg2ImgPipeline, SDInpaintPipeline, SDOutpaintPipeline]

CALLS = {
    SDPipeline: {},
    SDImg2ImgPipeline: {"image": picture()},
    SDInpaintPipeline: {"image": picture(), "mask_image": MASK},
    SDOutpaintPipeline: {"image": picture(), "padding": (0, 0, 9, 0)},
}

INPAINT_IN_STOCK = """
import sys
import numpy as np
import torch
from PIL import Image

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sd_pipeline":
            raise ImportError("sd_pipeline is blocked")

sys.meta_path.insert(0, Blocker())
from diffusers import AutoPipelineForInpainting, DiffusionPipeline

image, mask = Image.open(sys.argv[3]), Image.open(sys.argv[4])
pipes = [one.from_pretrained(sys.argv[1]) for one in (DiffusionPipeline, AutoPipelineForInpainting)]
for number, pipe in enumerate(pipes):
    assert type(pipe).__name__ == "StableDiffusionInpaintPipeline" and "sd_pipeline" not in sys.modules
    call = {"generator": torch.Generator().manual_seed(0), "output_type": "latent", "height": 32, "width": 32}
    latents = pipe("a red circle", image, mask, num_inference_steps=3, guidance_scale=4.0, **call).images
    np.save(f"{sys.argv[2]}/{number}.npy", latents.numpy())
"""


@pytest.fixture(scope="module")
def nine() -> SDInpaintPipeline:
    components = {**tiny_components(), "unet": tiny_unet(in_channels=9)}
    return quiet(SDInpaintPipeline(**components, recommended_call=STOCK))


@pytest.fixture
def inpainting_repository(nine, tmp_path):
    nine.save_pretrained(tmp_path / "nine")
    return tmp_path / "nine"


def latents_of(pipe, **kwargs) -> torch.Tensor:
    call = {"generator": generator(), "output_type": "latent", **CALLS.get(type(pipe), {}), **kwargs}
    return quiet(pipe)(PROMPT, **call).images


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(CLASSES, 2)))
def test_from_task_to_task(pipe, before, after):
    first = before.from_pipe(pipe)
    second = after.from_pipe(first)
    assert type(second) is after
    assert second.config["recommended_call"] == STOCK
    assert all(second.components[name] is component for name, component in first.components.items())
    torch.testing.assert_close(latents_of(second), latents_of(after(**pipe.components, recommended_call=STOCK)))


@pytest.mark.parametrize("pipeline_class", CLASSES)
def test_every_task_saves_a_stock_repository_and_loads_every_one(pipe, pipeline_class, tmp_path):
    made = pipeline_class.from_pipe(pipe)
    made.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert {**STOCK, "sha256": index["_sd_pipeline"]["sha256"]} == index["_sd_pipeline"]
    for other in {pipeline_class, SDInpaintPipeline}:
        loaded = other.from_pretrained(tmp_path)
        assert loaded.config["recommended_call"] == STOCK
        torch.testing.assert_close(latents_of(loaded), latents_of(other.from_pipe(pipe)))


@pytest.mark.parametrize("pipeline_class", CLASSES)
def test_from_the_pipelines_of_diffusers(stock_pipe, pipe, pipeline_class):
    stock_classes = (StableDiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline)
    for stock_class in stock_classes:
        stock = stock_class(**stock_pipe.components, requires_safety_checker=False)
        ours = pipeline_class.from_pipe(stock)
        assert ours.config["recommended_call"] == {}
        torch.testing.assert_close(latents_of(ours, **STOCK), latents_of(pipeline_class.from_pipe(pipe)), **CLOSE)


def test_repositories_of_text_to_image_models_load_in_every_pipeline_of_diffusers(repository, pipe):
    call = {**STOCK, "generator": generator(), "output_type": "latent"}
    for auto, ours in (
        (AutoPipelineForText2Image, SDPipeline),
        (AutoPipelineForImage2Image, SDImg2ImgPipeline),
        (AutoPipelineForInpainting, SDInpaintPipeline),
    ):
        stock = quiet(auto.from_pretrained(repository))
        assert type(stock).__module__.startswith("diffusers.")
        size = {"height": 32, "width": 32} if ours is SDInpaintPipeline else {}
        theirs = stock(PROMPT, **{**call, "generator": generator()}, **CALLS[ours], **size).images
        torch.testing.assert_close(latents_of(ours.from_pipe(pipe)), theirs, **CLOSE)


def test_repositories_of_inpainting_models_name_the_inpainting_pipeline(inpainting_repository, nine):
    index = json.loads((inpainting_repository / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionInpaintPipeline"
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert {**STOCK, "sha256": index["_sd_pipeline"]["sha256"]} == index["_sd_pipeline"]
    again = SDInpaintPipeline.from_pretrained(inpainting_repository)
    assert type(again.unet) is SDUNet2DConditionModel
    assert again.config["recommended_call"] == STOCK
    torch.testing.assert_close(latents_of(again), latents_of(nine))
    outpaint = SDOutpaintPipeline.from_pretrained(inpainting_repository)
    torch.testing.assert_close(latents_of(outpaint), latents_of(SDOutpaintPipeline.from_pipe(nine)))


def test_a_new_process_without_this_package_inpaints_alike(inpainting_repository, nine, tmp_path):
    picture().save(tmp_path / "image.png")
    MASK.save(tmp_path / "mask.png")
    run(
        INPAINT_IN_STOCK,
        *(str(path) for path in (inpainting_repository, tmp_path, tmp_path / "image.png", tmp_path / "mask.png")),
    )
    for name in ("0", "1"):
        made = torch.from_numpy(np.load(tmp_path / f"{name}.npy"))
        torch.testing.assert_close(made, latents_of(nine), **CLOSE)


def test_stock_inpainting_repository_loads_as_our_classes(inpainting_repository, nine, tmp_path):
    StableDiffusionInpaintPipeline.from_pretrained(inpainting_repository).save_pretrained(tmp_path)
    assert "_sd_pipeline" not in json.loads((tmp_path / "model_index.json").read_text())
    ours = SDInpaintPipeline.from_pretrained(tmp_path)
    classes = (type(ours.vae), type(ours.unet), type(ours.scheduler))
    assert classes == (SDAutoencoderKL, SDUNet2DConditionModel, SDDDPMScheduler)
    torch.testing.assert_close(latents_of(ours, **STOCK), latents_of(nine))


def test_text_to_image_loads_an_inpainting_repository_and_sends_on_whoever_calls_it(inpainting_repository, nine):
    for pipeline_class in (SDPipeline, SDImg2ImgPipeline):
        pipe = pipeline_class.from_pretrained(inpainting_repository)
        with pytest.raises(ValueError, match=r"trained to inpaint.*use SDInpaintPipeline") as raised:
            latents_of(pipe)
        assert "\n" not in str(raised.value)
        torch.testing.assert_close(latents_of(SDInpaintPipeline.from_pipe(pipe)), latents_of(nine))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_variants(nine, tmp_path, dtype):
    nine.save_pretrained(tmp_path, variant="fp16")
    for pipeline_class in (SDInpaintPipeline, SDOutpaintPipeline):
        half = pipeline_class.from_pretrained(tmp_path, variant="fp16", dtype=dtype)
        assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype} == {dtype}
    stock = StableDiffusionInpaintPipeline.from_pretrained(tmp_path, variant="fp16", dtype=dtype)
    assert stock.unet.dtype == dtype
    whole = SDInpaintPipeline.from_pretrained(tmp_path, variant="fp16")
    torch.testing.assert_close(latents_of(whole), latents_of(nine))


@pytest.mark.parametrize("kind", ["unconditional", "pixels"])
def test_inpainting_models_that_stock_has_no_word_for(kind, tmp_path):
    changes = {"unet": tiny_unconditional_unet(in_channels=9), "text_encoder": None, "tokenizer": None}
    if kind == "pixels":
        changes.update(unet=tiny_unconditional_unet(in_channels=7, out_channels=3), vae=None)
    pipe = SDInpaintPipeline(**{**tiny_components(), **changes}, recommended_call={"num_inference_steps": 2})
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionInpaintPipeline"
    again = SDInpaintPipeline.from_pretrained(tmp_path)
    call = {"image": picture(), "mask_image": MASK, "output_type": "pt"}
    made = [quiet(one)(generator=generator(), **call).images for one in (pipe, again)]
    torch.testing.assert_close(made[0], made[1])


@pytest.mark.parametrize("pipeline_class", CLASSES)
def test_what_diffusers_offers_on_every_pipeline(pipe, pipeline_class):
    ours, stock = pipeline_class.from_pipe(pipe), StableDiffusionPipeline(**pipe.components)
    for name in ("enable_vae_slicing", "enable_vae_tiling", "enable_attention_slicing", "enable_freeu"):
        assert hasattr(ours, name) == hasattr(stock, name)
    assert ours.model_cpu_offload_seq.split("->")[-3:] == ["text_encoder", "unet", "vae"]
    if torch.accelerator.is_available():
        pytest.skip("only without an accelerator")
    for offload in ("enable_model_cpu_offload", "enable_sequential_cpu_offload"):
        for one in (ours, stock):
            with pytest.raises(RuntimeError, match="requires accelerator"):
                getattr(one, offload)()
    torch.testing.assert_close(latents_of(ours), latents_of(pipeline_class.from_pipe(pipe)))


def test_diffusers_loads_any_of_them_by_the_index(repository, inpainting_repository):
    assert type(DiffusionPipeline.from_pretrained(repository)) is StableDiffusionPipeline
    assert type(DiffusionPipeline.from_pretrained(inpainting_repository)) is StableDiffusionInpaintPipeline


def test_components_that_are_shared_stay_in_their_precision(repository):
    """diffusers casts them to float32, and those of the first pipeline with them."""
    pipe = SDPipeline.from_pretrained(repository, dtype=torch.bfloat16)
    again = SDInpaintPipeline.from_pipe(pipe)
    assert again.unet is pipe.unet
    assert pipe.unet.dtype == pipe.vae.dtype == torch.bfloat16
    assert SDImg2ImgPipeline.from_pipe(pipe, dtype=torch.float32).unet.dtype == torch.float32
