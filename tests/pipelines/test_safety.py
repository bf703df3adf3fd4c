"""A safety checker that a repository brings along decides as in diffusers, and stays."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPImageProcessor

from sd_pipeline import SDImg2ImgPipeline, SDInpaintPipeline, SDOutpaintPipeline, SDPipeline
from tests.components import tiny_components
from tests.pictures import as_picture, checkered_hole, generator, picture
from tests.pipelines.conftest import quiet

PROMPTS = ["a red circle"] * 6
CALL = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np"}
TASKS = {
    "text-to-image": (SDPipeline, StableDiffusionPipeline, {}),
    "img2img": (SDImg2ImgPipeline, StableDiffusionImg2ImgPipeline, {"image": picture()}),
    "inpaint": (
        SDInpaintPipeline,
        StableDiffusionInpaintPipeline,
        {"image": picture(), "mask_image": as_picture(checkered_hole()), "height": 32, "width": 32},
    ),
    "outpaint": (SDOutpaintPipeline, None, {"image": picture(), "padding": (0, 0, 9, 0)}),
}


def tiny_checker() -> StableDiffusionSafetyChecker:
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision.update({"image_size": 32, "patch_size": 8, "projection_dim": 8})
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8))
        for parameter in checker.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return checker.eval()


@pytest.fixture(scope="module")
def components() -> dict:
    size = {"height": 32, "width": 32}
    extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    return {**tiny_components(), "safety_checker": tiny_checker(), "feature_extractor": extractor}


def calibrate(checker: StableDiffusionSafetyChecker, extractor: CLIPImageProcessor, images: np.ndarray) -> None:
    """Set the threshold between the images, so that some are flagged and some are not, and none nearly."""
    pictures = [as_rgb(image) for image in images]
    with torch.no_grad():
        pooled = checker.vision_model(extractor(pictures, return_tensors="pt").pixel_values)[1]
        embeds = torch.nn.functional.normalize(checker.visual_projection(pooled))
        checker.concept_embeds.copy_(embeds[:1].expand(17, -1))
        checker.special_care_embeds_weights.fill_(2.0)
        cosines = (embeds @ embeds[0]).sort().values
        gap = int(cosines.diff().argmax())
        checker.concept_embeds_weights.fill_(float(cosines[gap : gap + 2].mean()))


def as_rgb(image: np.ndarray):
    from PIL import Image

    return Image.fromarray((image * 255).round().astype(np.uint8))


def made_by(pipe, call):
    return quiet(pipe)(PROMPTS, generator=[generator(seed) for seed in range(6)], **CALL, **call)


@pytest.mark.parametrize("task", TASKS)
def test_images_are_blackened_as_in_diffusers(components, task):
    ours, stock, call = TASKS[task]
    if task != "text-to-image":
        call = {**call, "image": [picture(seed=seed) for seed in range(6)]}
    unchecked = {**components, "safety_checker": None}
    expected = made_by(ours(**unchecked), call)
    assert expected.nsfw_content_detected is None
    calibrate(components["safety_checker"], components["feature_extractor"], expected.images)
    checked = made_by(ours(**components), call)
    flags = np.array(checked.nsfw_content_detected)
    assert flags.shape == (6,)
    assert 0 < flags.sum() < 6
    assert not checked.images[flags].any()
    np.testing.assert_array_equal(checked.images[~flags], expected.images[~flags])
    if task in ("text-to-image", "img2img"):
        theirs = made_by(stock(**components), call)
        assert theirs.nsfw_content_detected == checked.nsfw_content_detected
        np.testing.assert_allclose(checked.images, theirs.images, atol=1e-4)
    elif task == "inpaint":
        # Diffusers returns the kept pixels as the autoencoder changed them, and judges these.
        assert len(made_by(stock(**components), call).nsfw_content_detected) == 6


def test_output_as_tuple_pil_and_latents(components):
    pipe = quiet(SDPipeline(**components))
    images, flags = pipe(PROMPTS[0], **{**CALL, "output_type": "pil"}, return_dict=False)
    assert flags in ([True], [False])
    assert images[0].size == (32, 32)
    assert pipe(PROMPTS[0], **{**CALL, "output_type": "latent"}).nsfw_content_detected is None


def test_checker_is_kept_on_saving_again_and_decides_the_same_in_diffusers(components, tmp_path):
    pipe = SDPipeline(**components)
    calibrate(components["safety_checker"], components["feature_extractor"], made_by(pipe, {}).images)
    first, again = tmp_path / "first", tmp_path / "again"
    pipe.save_pretrained(first)
    SDPipeline.from_pretrained(first).save_pretrained(again)
    expected = made_by(pipe, {})
    assert set(expected.nsfw_content_detected) == {True, False}
    for folder in (first, again):
        index = json.loads((folder / "model_index.json").read_text())
        assert index["safety_checker"] == ["stable_diffusion", "StableDiffusionSafetyChecker"]
        assert index["feature_extractor"] == ["transformers", "CLIPImageProcessor"]
        assert index["requires_safety_checker"] is True
        assert set(index["_sd_pipeline"]) == {"sha256"}, "no more than digests"
        keys = load_file(folder / "safety_checker" / "model.safetensors")
        assert any(key.startswith("vision_model.vision_model.") for key in keys)
        assert not any("vision_model.vision_model.vision_model" in key for key in keys)
        for pipeline_class in (SDPipeline, StableDiffusionPipeline):
            made = made_by(pipeline_class.from_pretrained(folder), {})
            assert made.nsfw_content_detected == expected.nsfw_content_detected
            np.testing.assert_allclose(made.images, expected.images, atol=1e-4)
    first_weights, again_weights = (load_file(one / "safety_checker" / "model.safetensors") for one in (first, again))
    assert all(torch.equal(tensor, again_weights[key]) for key, tensor in first_weights.items())


def test_checker_can_be_left_out(components, tmp_path, caplog):
    SDPipeline(**components).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        pipe = SDPipeline.from_pretrained(tmp_path, safety_checker=None)
    assert pipe.safety_checker is None
    assert made_by(pipe, {}).nsfw_content_detected is None
    pipe.save_pretrained(tmp_path / "without")
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "without").safety_checker is None


def test_checker_goes_along_to_other_tasks(components):
    pipe = SDPipeline(**components)
    for pipeline_class in (SDImg2ImgPipeline, SDInpaintPipeline, SDOutpaintPipeline):
        other = pipeline_class.from_pipe(pipe)
        assert other.safety_checker is components["safety_checker"]
        assert other.feature_extractor is components["feature_extractor"]


def test_half_precision(components, tmp_path):
    SDPipeline(**components).save_pretrained(tmp_path)
    half = SDPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.safety_checker.dtype == torch.bfloat16
    assert len(made_by(half, {}).nsfw_content_detected) == 6


def test_checker_without_what_prepares_its_images_is_refused(components):
    with pytest.raises(ValueError, match=r"`safety_checker` is given without the `feature_extractor`"):
        SDPipeline(**{**components, "feature_extractor": None})
