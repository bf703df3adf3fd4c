"""Building and loading the models of a configuration."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextModel

from tests.components import tiny_text_encoder, tiny_tokenizer
from tests.training.configurations import WITHOUT_TEXT, tiny_train_config
from training.config import ConfigError
from training.data.clip_tokenizer import train_clip_tokenizer
from training.tasks.components import (
    build_clip_model,
    build_text_model,
    build_unet,
    build_vae,
    downsampling_factor,
    load_frozen_models,
    load_text_encoder,
    text_model_config,
)


def test_the_u_net_follows_from_the_other_models():
    unet = build_unet(tiny_train_config(), latent_channels=4, latent_size=8, cross_attention_dim=16)
    keys = ("in_channels", "out_channels", "sample_size", "cross_attention_dim")
    assert [unet.config[key] for key in keys] == [4, 4, 8, 16]
    pixels = build_unet(tiny_train_config(diffusion__unet=WITHOUT_TEXT), 3, 32, None)
    assert [pixels.config[key] for key in keys[:3]] == [3, 3, 32]


def test_the_autoencoder_knows_its_size_and_factor():
    vae = build_vae(tiny_train_config())
    assert vae.config.sample_size == 32
    latents = vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mode()
    assert latents.shape[-1] * downsampling_factor(vae) == 32


def test_the_vocabulary_follows_from_the_tokenizer():
    config = tiny_train_config().text_encoder
    tokenizer = train_clip_tokenizer(["a red circle"], 600, 12)
    text = text_model_config(config, tokenizer)
    assert (text.vocab_size, text.bos_token_id, text.eos_token_id) == (
        len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
    )  # fmt: skip
    assert text_model_config(config, None).vocab_size == config.vocab_size
    clip = build_clip_model(config, tokenizer, 32)
    assert clip.config.text_config.eos_token_id == tokenizer.eos_token_id
    assert clip.config.vision_config.image_size == 32
    assert clip.text_projection.weight.shape == (config.projection_dim, 16)
    assert build_text_model(config, tokenizer).get_input_embeddings().weight.shape == (len(tokenizer), 16)


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    tiny_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    return folder


def test_text_encoders_load_from_both_layouts(text_folder, tmp_path):
    tokenizer, model = load_text_encoder(str(text_folder))
    expected = tiny_text_encoder(tokenizer)
    model.half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    flat_tokenizer, flat_model = load_text_encoder(str(tmp_path))
    assert isinstance(flat_model, CLIPTextModel)
    assert flat_model.dtype == torch.float32
    assert flat_tokenizer.get_vocab() == tokenizer.get_vocab()
    torch.testing.assert_close(flat_model.state_dict(), expected.state_dict(), rtol=1e-3, atol=1e-3)


def test_a_missing_text_encoder_is_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"text_encoder\.pretrained_model_name_or_path = .*: cannot be loaded"
    ) as caught:
        load_text_encoder(str(tmp_path / "none"))
    assert "\n" not in str(caught.value)


def test_earlier_stages_are_loaded_where_they_are(text_folder, tmp_path):
    vae = build_vae(tiny_train_config())
    vae.save_pretrained(tmp_path / "vae")
    frozen = load_frozen_models(text_folder, tmp_path, torch.device("cpu"))
    assert len(frozen.tokenizer) == frozen.text_encoder.config.vocab_size
    for key, value in vae.state_dict().items():
        assert torch.equal(frozen.vae.state_dict()[key], value)
    nothing = load_frozen_models(None, None, torch.device("cpu"))
    assert (nothing.tokenizer, nothing.text_encoder, nothing.vae) == (None, None, None)
