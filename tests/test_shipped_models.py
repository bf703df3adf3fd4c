"""The models that travel with the package: whole, small, stock, with all that a card tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard

from sd_pipeline import SDPipeline
from sd_pipeline.pretrained_models import PACKAGED_MODELS
from tests.source_files import ROOT

MAX_BYTES = 32_000_000

pytestmark = pytest.mark.parametrize("name", PACKAGED_MODELS)


def card_of(name: str) -> str:
    return (ROOT / name / "README.md").read_text(encoding="utf-8")


def test_it_is_small_and_made_of_nothing_but_data(name):
    files = [path for path in (ROOT / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".png"}


def test_its_card_has_what_every_card_has(name):
    card = card_of(name)
    for told in ("## Training data", "Licence of the data:", "Energy: about", "Nearest among", "training/train.py"):
        assert told in card
    for picture in ("samples.png", "training_curve.png", "nearest_training_images.png"):
        assert f"]({picture})" in card
        assert (ROOT / name / picture).is_file()
    data = ModelCard(card).data
    assert data.license == "apache-2.0"
    assert data.co2_eq_emissions["emissions"] > 0
    assert [entry["text"] for entry in data.widget]
    assert data.eval_results
    assert f"--model {name} --suite" in card
    assert Path.home().as_posix() not in card


def test_its_recommended_call_is_the_default(name):
    recommended = json.loads((ROOT / name / "model_index.json").read_text(encoding="utf-8"))["_sd_pipeline"]
    pipe = SDPipeline.from_pretrained(name)
    assert recommended["num_inference_steps"] <= 25
    for key, value in pipe.config["recommended_call"].items():
        assert recommended[key] == value


def test_plain_diffusers_gives_the_same_pictures(name):
    prompt = ModelCard(card_of(name)).data.widget[0]["text"]
    ours, stock = SDPipeline.from_pretrained(name), StableDiffusionPipeline.from_pretrained(ROOT / name)
    for pipe in (ours, stock):
        pipe.set_progress_bar_config(disable=True)
    expected = ours(prompt, generator=torch.Generator().manual_seed(0), output_type="np").images
    call = {"output_type": "np", **ours.config["recommended_call"]}
    images = stock(prompt, generator=torch.Generator().manual_seed(0), **call).images
    torch.testing.assert_close(torch.from_numpy(images), torch.from_numpy(expected), rtol=0, atol=1e-4)
