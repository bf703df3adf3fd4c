"""The CLIP that judges is found, or refused, and sees images as it was trained to."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from tests.components import CAPTIONS, tiny_text_encoder, tiny_tokenizer
from tests.training.evaluation.tiny_clip import IMAGE_SIZE, PROJECTION_DIM, save_as_run, tiny_clip
from training.evaluation.clip_judge import ClipJudge, load_clip_judge


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_as_run(folder, tiny_clip())
    return folder


def same_judge(one: ClipJudge, other: ClipJudge) -> bool:
    weights, others = one.model.state_dict(), other.model.state_dict()
    return all(weights[name].equal(others[name]) for name in weights) and (
        one.tokenizer(CAPTIONS).input_ids == other.tokenizer(CAPTIONS).input_ids
    )


def test_the_clip_of_the_run_is_found(run, monkeypatch):
    found = load_clip_judge(str(run / "pipeline"))
    assert found.name == "text_encoder/final/clip"
    assert found.tokenizer.model_max_length == found.model.config.text_config.max_position_embeddings
    assert same_judge(found, load_clip_judge(None, str(run / "text_encoder" / "final" / "clip")))
    monkeypatch.chdir(run)
    assert same_judge(found, load_clip_judge("pipeline/"))


def test_another_clip_brings_its_tokenizer_and_its_normalisation(run, tmp_path):
    tiny_clip(seed=1).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    ).save_pretrained(tmp_path)
    other = load_clip_judge(str(run / "pipeline"), str(tmp_path))
    assert other.name == tmp_path.name
    white = other.processor(images=[Image.new("RGB", (40, 40), "white")], return_tensors="pt").pixel_values
    assert np.allclose(white[0, :, 5, 5], (1 - np.array([0.48145466, 0.4578275, 0.40821073])) / 0.27, atol=0.1)
    assert other.protocol()["resize_filter"] == "Pillow bicubic, antialiased"
    assert other.protocol()["image_mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_the_protocol_of_a_run(run):
    assert json.loads(json.dumps(load_clip_judge(str(run / "pipeline")).protocol())) == {
        "clip": "text_encoder/final/clip",
        "image_size": IMAGE_SIZE,
        "resize_filter": "Pillow lanczos, antialiased",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    assert load_clip_judge(str(run / "pipeline")).model.config.projection_dim == PROJECTION_DIM


@pytest.mark.parametrize("pipeline", [None, "{tmp_path}/pipeline", "somebody/model"])
def test_a_model_without_a_clip_needs_one(tmp_path, pipeline):
    pipeline = pipeline and pipeline.format(tmp_path=tmp_path)
    with pytest.raises(ValueError, match=r"^--clip is not given, .* allowed: folder or Hub name of a CLIPModel.*$"):
        load_clip_judge(pipeline)


def test_what_is_no_clip_is_refused(run, tmp_path):
    def refused(folder: Path, reason: str) -> None:
        with pytest.raises(ValueError, match=f"^--clip {re.escape(str(folder))}: {reason}.*; allowed: .*$"):
            load_clip_judge(None, str(folder))

    refused(tmp_path / "nowhere", "")
    tokenizer = tiny_tokenizer()
    tiny_text_encoder(tokenizer).save_pretrained(tmp_path / "text")
    refused(tmp_path / "text", "is of the type 'clip_text_model'")

    bare = tmp_path / "bare"
    shutil.copytree(run / "text_encoder" / "final" / "clip", bare)
    refused(bare, f"has no tokenizer of {len(tokenizer)} tokens")

    (bare / "model.safetensors").unlink()
    refused(bare, "")


def test_weights_that_the_file_lacks_are_not_drawn_at_random(run, tmp_path):
    clip = tiny_clip()
    weights = {name: weight for name, weight in clip.state_dict().items() if name != "visual_projection.weight"}
    clip.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match="lacks 1 weights"):
        load_clip_judge(None, str(tmp_path))
