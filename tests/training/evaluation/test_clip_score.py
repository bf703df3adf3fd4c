"""The score of Hessel et al., of a CLIP whose embeddings are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.components import CAPTIONS
from tests.training.evaluation.tiny_clip import PROJECTION_DIM, save_as_run, tiny_clip
from training.evaluation.clip_judge import load_clip_judge
from training.evaluation.clip_score import clip_scores, clip_text_features
from training.evaluation.image_features import clip_image_features
from training.tasks.text_encoder import ContrastiveModel


@pytest.mark.parametrize(("cosine", "score"), [(0.6, 60.0), (1.0, 100.0), (-0.8, 0.0)])
def test_the_score_of_known_embeddings(tmp_path, cosine, score):
    """Towers whose last normalisation gives a constant embed everything as a known column of their projection."""
    clip = tiny_clip()
    with torch.no_grad():
        for norm in (clip.vision_model.post_layernorm, clip.text_model.final_layer_norm):
            norm.weight.zero_()
            norm.bias.copy_(torch.eye(len(norm.bias))[0])
        for projection in (clip.visual_projection, clip.text_projection):
            projection.weight.zero_()
        clip.visual_projection.weight[:2, 0] = 7 * torch.tensor([1.0, 0.0])
        clip.text_projection.weight[:2, 0] = 0.3 * torch.tensor([cosine, (1 - cosine**2) ** 0.5])
    judge = load_clip_judge(str(save_as_run(tmp_path, clip)))
    images = clip_image_features(judge, [Image.new("RGB", (32, 32), "red")] * len(CAPTIONS))
    assert np.allclose(images, [7, *[0] * (PROJECTION_DIM - 1)])
    assert np.allclose(clip_scores(images, clip_text_features(judge, CAPTIONS)), score, atol=1e-4)


def test_captions_are_embedded_as_in_training(tmp_path):
    judge = load_clip_judge(str(save_as_run(tmp_path, tiny_clip())))
    captions = [*CAPTIONS, "a red circle " * 50]
    tokens = judge.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = ContrastiveModel(tiny_clip()).text_embeddings(tokens.input_ids).numpy()
    assert np.allclose(clip_text_features(judge, captions), expected, atol=1e-5)
    assert len(np.unique(expected.round(3), axis=0)) == len(captions)


def test_the_score_sees_directions_only():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, 50, 6))
    scores = clip_scores(images, texts)
    assert scores == pytest.approx(clip_scores(images * 9, texts * 0.1))
    assert ((scores >= 0) & (scores <= 100)).all()
    assert 10 < (scores == 0).sum() < 40
    assert clip_scores(images, images) == pytest.approx(100)
