"""Captions that are encoded once: what the text encoder makes of them in every step, for every caption there is."""

from __future__ import annotations

import pytest
import torch

from sd_pipeline import SDInpaintPipeline
from tests.components import tiny_components, tiny_text_encoder, tiny_tokenizer, tiny_vae
from tests.training.configurations import WITHOUT_TEXT, tiny_train_config
from tests.training.tasks.test_diffusion import samples, task_of
from training.config import ConfigError
from training.data.clip_tokenizer import tokenize
from training.tasks.components import FrozenModels
from training.tasks.model_check import check_models
from training.tasks.text_embeddings import TextEmbeddings

CAPTIONS = [f"a red circle and {number} blue squares" for number in range(40)]


@pytest.fixture(scope="module")
def frozen():
    tokenizer = tiny_tokenizer()
    return FrozenModels(tokenizer, tiny_text_encoder(tokenizer), tiny_vae())


@torch.no_grad()
def test_each_caption_is_encoded_once_and_the_empty_one_too(frozen):
    embeddings = TextEmbeddings([*CAPTIONS, *reversed(CAPTIONS)], frozen.tokenizer, frozen.text_encoder)
    assert len(embeddings.hidden_states) == len(CAPTIONS) + 1
    for asked in ([CAPTIONS[39], "", CAPTIONS[0], CAPTIONS[39]], [CAPTIONS[33]]):
        tokens = tokenize(frozen.tokenizer, asked)
        torch.testing.assert_close(embeddings(asked), frozen.text_encoder(tokens)[0])
    with pytest.raises(KeyError, match="a green circle"):
        embeddings(["a green circle"])


def test_another_time_the_bits_are_the_same(frozen):
    first, second = (TextEmbeddings(CAPTIONS, frozen.tokenizer, frozen.text_encoder) for _ in range(2))
    assert torch.equal(first.hidden_states, second.hidden_states)


@pytest.mark.parametrize("proportion", [0.0, 0.5])
def test_the_u_net_is_shown_the_same(frozen, proportion):
    prepared = []
    for is_computed_before in (False, True):
        task = task_of(
            frozen,
            diffusion__proportion_empty_prompts=proportion,
            diffusion__pre_compute_text_embeddings=is_computed_before,
        )
        batch = task.collate(samples(task, range(24)))
        assert ("input_ids" in batch) is not is_computed_before
        prepared.append(task.prepare_batch(batch, 0))
    assert prepared[0].keys() == prepared[1].keys()
    for name, value in prepared[0].items():
        torch.testing.assert_close(prepared[1][name], value)
    assert torch.isfinite(task.model(**prepared[1])["loss"]).all()


def test_a_model_without_text_has_none_to_encode():
    values = {"diffusion__pre_compute_text_embeddings": True, "diffusion__cache_latents": False}
    message = r"^diffusion\.pre_compute_text_embeddings = True: the model has no text encoder$"
    with pytest.raises(ConfigError, match=message):
        check_models(tiny_train_config(stages=["diffusion"], diffusion__unet=WITHOUT_TEXT, **values))
    check_models(tiny_train_config(stages=["diffusion"], **values), ["text_encoder", "autoencoder"])
    pretrained = SDInpaintPipeline(**tiny_components())
    check_models(tiny_train_config(stages=["diffusion"], **values), pretrained=pretrained)
    pretrained.register_modules(text_encoder=None, tokenizer=None)
    with pytest.raises(ConfigError, match=message):
        check_models(tiny_train_config(stages=["diffusion"], **values), pretrained=pretrained)
