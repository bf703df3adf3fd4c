"""Runs that go on from a finished model: whole, as adapters, and into inpainting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from sd_pipeline import SDInpaintPipeline, SDPipeline
from tests.components import tiny_components
from tests.training.runs import TIMEOUT, environment, rows, train, write_finetuning
from training.train import main

PROMPT = "a handwritten three"
LORA = {"rank": 4, "lora_alpha": 8.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny text-to-image model, as its makers would publish it."""
    folder = tmp_path_factory.mktemp("models") / "base"
    recommended = {"num_inference_steps": 3, "guidance_scale": 4.0}
    SDPipeline(**tiny_components(), recommended_call=recommended).save_pretrained(folder)
    return folder


def run_of(base: Path, folder: Path, **diffusion: Any) -> Path:
    return write_finetuning(base, folder, PROMPT, **diffusion)


def trained(base: Path, folder: Path, *overrides: str, **diffusion: Any) -> Path:
    train(["--config", str(run_of(base, folder, **diffusion)), *overrides])
    return folder / "out"


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory) -> Path:
    return trained(base, tmp_path_factory.mktemp("lora"), lora=LORA, train_text_encoder=True)


GENERATE = """
import torch
from {library} import {kind}
pipe = {kind}.from_pretrained({base!r})
pipe.load_lora_weights({adapters!r})
call = dict(num_inference_steps=3, guidance_scale=4.0, output_type="np")
images = [pipe({prompt!r}, generator=torch.Generator().manual_seed(3), **call).images]
pipe.unload_lora_weights()
images.append(pipe({prompt!r}, generator=torch.Generator().manual_seed(3), **call).images)
torch.save([torch.from_numpy(image) for image in images], {target!r})
"""


def test_adapters_give_the_same_picture_here_and_in_plain_diffusers(base, adapters, tmp_path):
    """For us in this process; in one that has never seen this package for diffusers."""
    drawn = {}
    for library, kind in (("sd_pipeline", "SDPipeline"), ("diffusers", "StableDiffusionPipeline")):
        target = str(tmp_path / f"{library}.pt")
        places = {"base": str(base), "adapters": str(adapters / "pipeline"), "target": target}
        code = GENERATE.format(library=library, kind=kind, prompt=PROMPT, **places)
        if library == "sd_pipeline":
            exec(compile(code, "generate", "exec"), {})
        else:
            subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=TIMEOUT, cwd=tmp_path)
        drawn[library] = torch.load(target, weights_only=True)
    with_here, without_here = drawn["sd_pipeline"]
    with_stock, without_stock = drawn["diffusers"]
    assert (with_here - with_stock).abs().max() <= 1e-4
    assert (without_here - without_stock).abs().max() <= 1e-4
    assert (with_here - without_here).abs().max() > 1e-2


def test_the_file_of_the_adapters_holds_them_alone_and_tells_no_path(base, adapters):
    file = adapters / "pipeline" / "pytorch_lora_weights.safetensors"
    pictures = ["nearest_training_images.png", "samples.png", "training_curve.png"]
    assert sorted(path.name for path in file.parent.iterdir()) == sorted(["README.md", file.name, *pictures])
    with safe_open(file, "pt") as opened:
        names, metadata = list(opened.keys()), json.loads(opened.metadata()["lora_adapter_metadata"])
    assert all("lora" in name for name in names)
    assert {name.split(".")[0] for name in names} == {"unet", "text_encoder"}
    assert (metadata["unet.r"], metadata["unet.lora_alpha"]) == (4, 8.0)
    content = file.read_bytes() + (file.parent / "README.md").read_bytes()
    assert str(base.parent).encode() not in content


def test_the_card_of_the_adapters_names_the_model_that_they_are_for(adapters):
    card = (adapters / "pipeline" / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert "base_model" not in metadata, "a folder is nothing that the Hub could point to"
    assert {"lora", "diffusers"} <= set(metadata["tags"])
    assert 'pipe.load_lora_weights("pipeline")' in card
    for block in card.split("```python\n")[1:]:
        compile(block.split("```")[0], "card", "exec")
    assert 'DiffusionPipeline.from_pretrained("base")' in card
    config = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert "autoencoder" not in config, "nothing of it was used"
    assert "unet" not in config["diffusion"]
    assert "num_inference_steps=3, guidance_scale=4.0" in card, "as the model recommends, for all the run says"


def test_a_training_state_holds_what_is_trained_and_nothing_else(adapters):
    state = load_file(adapters / "diffusion" / "checkpoint-4" / "model.safetensors")
    assert state
    assert all("lora_" in name for name in state)


def test_adapters_resume_to_the_bit(base, adapters, tmp_path):
    out = trained(base, tmp_path, "--diffusion.max_train_steps=2", lora=LORA, train_text_encoder=True)
    train(["--config", str(tmp_path / "run.yaml")])
    assert [row["loss"] for row in rows(out, "diffusion")] == [row["loss"] for row in rows(adapters, "diffusion")]
    for file in ("model", "ema", "optimizer"):
        resumed, whole = (
            load_file(run / "diffusion" / "checkpoint-4" / f"{file}.safetensors") for run in (out, adapters)
        )
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_same_command_again_does_nothing(adapters):
    file = adapters / "pipeline" / "pytorch_lora_weights.safetensors"
    before = file.stat().st_mtime_ns
    assert main(["--config", str(adapters.parent / "run.yaml")]) == 0
    assert file.stat().st_mtime_ns == before


def test_a_model_is_trained_on_whole_and_stays_what_it_was_otherwise(base, tmp_path):
    out = trained(base, tmp_path, "--diffusion.max_train_steps=1", train_text_encoder=True)
    before, after = SDPipeline.from_pretrained(base), SDPipeline.from_pretrained(out / "pipeline")
    for name in ("unet", "text_encoder"):
        old, new = getattr(before, name).state_dict(), getattr(after, name).state_dict()
        assert any(not torch.equal(old[key], new[key]) for key in old), name
    assert all(torch.equal(a, b) for a, b in zip(before.vae.parameters(), after.vae.parameters(), strict=True))
    assert after.config["recommended_call"] == before.config["recommended_call"]
    assert dict(after.scheduler.config) == dict(before.scheduler.config)
    assert "trained on from `base`" in (out / "pipeline" / "README.md").read_text()


def test_a_text_to_image_model_learns_to_inpaint(base, tmp_path):
    out = trained(base, tmp_path, "--diffusion.max_train_steps=2", inpainting=True)
    folder = out / "pipeline"
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "StableDiffusionInpaintPipeline"
    ours, stock = SDInpaintPipeline.from_pretrained(folder), StableDiffusionInpaintPipeline.from_pretrained(folder)
    assert ours.unet.config.in_channels == stock.unet.config.in_channels == 9
    assert ours.unet.conv_in.weight[:, 4:].abs().max() > 0, "the new channels have learned"
    picture, mask = Image.new("RGB", (32, 32), "navy"), Image.new("L", (32, 32), "black")
    mask.paste("white", (8, 8, 24, 24))
    call = {"image": picture, "mask_image": mask, "output_type": "latent", "num_inference_steps": 3}
    latents = [
        pipe(PROMPT, **call, guidance_scale=4.0, generator=torch.Generator().manual_seed(0), **size).images
        for pipe, size in ((ours, {}), (stock, {"height": 32, "width": 32}))
    ]
    torch.testing.assert_close(*latents, rtol=1e-4, atol=1e-4)
    again = trained(folder, tmp_path / "again", "--diffusion.max_train_steps=1", inpainting=True)
    assert SDInpaintPipeline.from_pretrained(again / "pipeline").unet.config.in_channels == 9
