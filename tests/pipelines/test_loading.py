"""Repositories of others load as our classes, ours load everywhere, and damaged ones are named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file

from sd_pipeline import SDAutoencoderKL, SDDDPMScheduler, SDPipeline, SDUNet2DConditionModel
from sd_pipeline.publishing.manifest import write_manifest
from tests.components import tiny_components, tiny_scheduler, tiny_unconditional_unet, tiny_vae

PROMPT = "a red circle"

GENERATE_IN_STOCK = """
import sys
import numpy as np
import torch

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sd_pipeline":
            raise ImportError("sd_pipeline is blocked")

sys.meta_path.insert(0, Blocker())
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
generator = torch.Generator().manual_seed(0)
image = pipe(sys.argv[2], num_inference_steps=3, guidance_scale=4.0, generator=generator, output_type="np").images
assert type(pipe).__name__ == "StableDiffusionPipeline" and "sd_pipeline" not in sys.modules
np.save(sys.argv[3], image)
"""

GENERATE_HERE = """
import sys
import numpy as np
import torch
from sd_pipeline import SDPipeline

pipe = SDPipeline.from_pretrained(sys.argv[1])
generator = torch.Generator().manual_seed(0)
np.save(sys.argv[3], pipe(sys.argv[2], generator=generator, output_type="np").images)
classes = [type(component).__name__ for component in pipe.components.values()]
assert "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img" not in sys.modules
print(*sorted(classes))
"""


def image_of(pipe, *args, **kwargs) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(*args, generator=torch.Generator().manual_seed(0), output_type="pt", **kwargs).images


def run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=os.path.dirname(sys.executable))
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def copy(repository, tmp_path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "copy"))


def test_new_processes_with_and_without_this_package_give_the_same_image(pipe, repository, tmp_path):
    import numpy as np

    expected = image_of(pipe, PROMPT).permute(0, 2, 3, 1).numpy()
    classes = run(GENERATE_HERE, str(repository), PROMPT, str(tmp_path / "here.npy"))
    run(GENERATE_IN_STOCK, str(repository), PROMPT, str(tmp_path / "stock.npy"))
    assert classes.split() == [
        "CLIPTextModel",
        "CLIPTokenizer",
        "NoneType",
        "NoneType",
        "SDAutoencoderKL",
        "SDDDPMScheduler",
        "SDUNet2DConditionModel",
    ]
    np.testing.assert_allclose(np.load(tmp_path / "here.npy"), expected, atol=1e-4)
    np.testing.assert_allclose(np.load(tmp_path / "stock.npy"), expected, atol=1e-4)


def test_stock_repository_loads_as_our_classes(stock_pipe, tmp_path):
    stock_pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert "_sd_pipeline" not in index, "stock does not keep what it does not know"
    pipe = SDPipeline.from_pretrained(tmp_path)
    assert type(pipe.vae) is SDAutoencoderKL
    assert type(pipe.unet) is SDUNet2DConditionModel
    assert type(pipe.scheduler) is SDDDPMScheduler
    call = {"num_inference_steps": 3, "guidance_scale": 4.0}
    torch.testing.assert_close(image_of(pipe, PROMPT, **call), image_of(stock_pipe, PROMPT, **call))
    assert pipe.config["recommended_call"] == {}
    assert pipe.name_or_path == str(tmp_path)


def test_other_schedulers_stay_those_of_diffusers(pipe, tmp_path):
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)
    assert type(SDPipeline.from_pretrained(tmp_path).scheduler) is PNDMScheduler
    assert type(StableDiffusionPipeline.from_pretrained(tmp_path).scheduler) is PNDMScheduler


def test_components_that_the_caller_brings_along(copy):
    shutil.rmtree(copy / "scheduler")
    shutil.rmtree(copy / "vae")
    vae, scheduler = tiny_vae(seed=7), DDIMScheduler(clip_sample=False, steps_offset=1)
    pipe = SDPipeline.from_pretrained(copy, vae=vae, scheduler=scheduler, recommended_call={"guidance_scale": 2.0})
    assert (pipe.vae, pipe.scheduler) == (vae, scheduler)
    assert pipe.fill_in_recommended()["guidance_scale"] == 2.0


def test_old_names_of_the_first_repositories(copy):
    """SD 1.x: attention of the autoencoder under names of 2022."""
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    weights = load_file(path)
    for new, old in names.items():
        weights = {name.replace(new, old): tensor.clone() for name, tensor in weights.items()}
    save_file(weights, path, metadata={"format": "pt"})
    write_manifest(copy)
    old = SDPipeline.from_pretrained(copy)
    expected = SDPipeline(**tiny_components())
    call = {"num_inference_steps": 2, "guidance_scale": 3.0}
    torch.testing.assert_close(image_of(old, PROMPT, **call), image_of(expected, PROMPT, **call))


@pytest.mark.parametrize("kind", ["isotropic", "mean", "unconditional", "pixels"])
def test_what_stock_has_no_word_for_survives(kind, tmp_path):
    unconditional = {"unet": tiny_unconditional_unet(), "text_encoder": None, "tokenizer": None}
    changes = {
        "isotropic": {"vae": tiny_vae(posterior="isotropic")},
        "mean": {"scheduler": tiny_scheduler(prediction_type="mean")},
        "unconditional": unconditional,
        "pixels": {**unconditional, "vae": None},
    }[kind]
    pipe = SDPipeline(**{**tiny_components(), **changes}, recommended_call={"num_inference_steps": 2})
    pipe.save_pretrained(tmp_path)
    again = SDPipeline.from_pretrained(tmp_path)
    prompts = [] if "text_encoder" in changes else [PROMPT]
    torch.testing.assert_close(image_of(again, *prompts), image_of(pipe, *prompts))
    facts = json.loads((tmp_path / "model_index.json").read_text())["_sd_pipeline"]
    expected = {
        "isotropic": {"vae": ["sd_pipeline", "SDAutoencoderKL"]},
        "mean": {"scheduler": ["sd_pipeline", "SDDDPMScheduler"]},
        "unconditional": {"text_encoder": [None, None], "tokenizer": [None, None]},
        "pixels": {"text_encoder": [None, None], "tokenizer": [None, None], "vae": [None, None]},
    }[kind]
    assert set(facts.pop("sha256")) == {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*.safetensors")
    }
    assert facts == {"num_inference_steps": 2, "components": expected}
    if kind == "isotropic":
        assert again.vae.config.posterior == "isotropic"
        stock = StableDiffusionPipeline.from_pretrained(tmp_path)
        torch.testing.assert_close(image_of(stock, PROMPT, num_inference_steps=2), image_of(pipe, PROMPT))
    elif kind == "mean":
        with pytest.raises(ValueError, match="prediction_type given as mean"):
            StableDiffusionPipeline.from_pretrained(tmp_path)(PROMPT, num_inference_steps=2)
    else:
        with pytest.raises(ValueError, match="text_encoder"):
            StableDiffusionPipeline.from_pretrained(tmp_path)


def test_components_load_alone_in_diffusers_too(repository):
    assert AutoencoderKL.from_pretrained(repository, subfolder="vae").config.scaling_factor == 0.7
    assert UNet2DConditionModel.from_pretrained(repository, subfolder="unet").config.sample_size == 8
    assert DDPMScheduler.from_pretrained(repository, subfolder="scheduler").config.steps_offset == 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def drop_weight(path: Path) -> None:
    weights = load_file(path)
    del weights[sorted(weights)[3]]
    save_file(weights, path, metadata={"format": "pt"})


def reshape_weight(path: Path) -> None:
    weights = load_file(path)
    weights[sorted(weights)[0]] = torch.zeros(1)
    save_file(weights, path, metadata={"format": "pt"})


def write(text: str):
    return lambda path: path.write_text(text)


UNET, VAE, TEXT = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"
UNKNOWN = '{"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder_2": ["transformers", "CLIPTextModel"]}'
FOREIGN = '{"_class_name": "StableDiffusionPipeline", "_sd_pipeline": {"components": {"vae": ["os", "system"]}}}'


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model_index.json", Path.unlink, "is missing"),
        ("model_index.json", truncate, "is not valid JSON"),
        ("model_index.json", write("[]"), "holds no JSON object"),
        ("model_index.json", write(UNKNOWN), "with a `text_encoder_2` cannot be used here"),
        ("model_index.json", write(FOREIGN), "which this package does not write"),
        ("unet", shutil.rmtree, "is missing: model_index.json lists"),
        ("unet/config.json", Path.unlink, "is missing"),
        ("unet/config.json", write("{"), "is not valid JSON"),
        ("unet/config.json", write('{"_class_name": "UNet2DConditionModel", "down_block_types": ["None"]}'), "unet"),
        (f"{UNET}.safetensors", Path.unlink, "is missing"),
        (f"{UNET}.safetensors", truncate, "is truncated: it has"),
        (f"{UNET}.safetensors", cut_header, "is truncated: it has 100 bytes, its header alone"),
        (f"{UNET}.safetensors", write(""), "is not a safetensors file"),
        (f"{UNET}.safetensors", write("no weights at all"), "safetensors"),
        (f"{UNET}.safetensors", drop_weight, "lacks the weight 'conv_norm_out"),
        (f"{UNET}.safetensors", reshape_weight, "the weight 'conv_in.bias' has shape"),
        (f"{VAE}.safetensors", Path.unlink, "is missing"),
        (f"{VAE}.safetensors", drop_weight, "lacks the weight 'decoder"),
        (f"{TEXT}.safetensors", truncate, "is truncated"),
        (f"{TEXT}.safetensors", drop_weight, "lacks the weight"),
        ("text_encoder/config.json", Path.unlink, "is missing"),
        ("tokenizer", shutil.rmtree, "is missing: model_index.json lists"),
        ("tokenizer/tokenizer_config.json", Path.unlink, "is missing"),
        ("tokenizer/tokenizer.json", truncate, "is not valid JSON"),
        ("tokenizer/vocab.json", truncate, "is not valid JSON"),
        ("scheduler/scheduler_config.json", Path.unlink, "is missing"),
        ("scheduler/scheduler_config.json", write("nonsense"), "is not valid JSON"),
        ("scheduler/scheduler_config.json", write('{"prediction_type": "noise"}'), "prediction_type='noise'"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", "write"),
)
def test_damage_is_named_in_one_line(copy, file, damage, message):
    damage(copy / file)
    with pytest.raises(ValueError, match=message) as raised:
        SDPipeline.from_pretrained(copy)
    assert "\n" not in str(raised.value)
    if "prediction_type" not in message:
        assert file.split("/")[-1].split(".")[0] in str(raised.value)


def test_tokenizer_needs_one_of_its_two_forms(copy):
    (copy / "tokenizer" / "tokenizer.json").unlink()
    assert (
        SDPipeline.from_pretrained(copy).tokenizer(PROMPT).input_ids
        == tiny_components()["tokenizer"](PROMPT).input_ids
    )
    (copy / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(ValueError, match=r"tokenizer.json is missing, and so is vocab.json or merges.txt"):
        SDPipeline.from_pretrained(copy)


def test_sharded_weights_and_variants(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16", max_shard_size="200KB")
    assert len(list((tmp_path / "unet").glob("*fp16*.safetensors"))) > 1
    again = SDPipeline.from_pretrained(tmp_path, variant="fp16")
    torch.testing.assert_close(image_of(again, PROMPT), image_of(pipe, PROMPT))
    shard = sorted((tmp_path / "unet").glob("*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name} is missing"):
        SDPipeline.from_pretrained(tmp_path, variant="fp16")


@pytest.mark.parametrize("name", ["no/such/folder", "../nothing", "/nowhere at all"])
def test_folder_that_is_not_there(name):
    with pytest.raises(OSError, match="is neither a folder nor the name of a repository") as raised:
        SDPipeline.from_pretrained(name)
    assert "\n" not in str(raised.value)


def test_recommended_call_that_somebody_spoilt(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["_sd_pipeline"]["num_inference_steps"] = 0
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="`num_inference_steps` is 0"):
        SDPipeline.from_pretrained(copy)
