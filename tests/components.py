"""Real components at a tiny size, made without a network, with weights that depend on the seed alone.

Images are 32x32, latents 8x8 with 4 channels, prompts 16 tokens long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sd_pipeline import SDAutoencoderKL, SDDDPMScheduler, SDUNet2DConditionModel

CAPTIONS = [
    "a red circle",
    "a blue square above a green triangle",
    "two small yellow stars",
    "a handwritten seven",
    "a large purple cross on the left of a white ring",
]
MAX_LENGTH = 16
HIDDEN_SIZE = 32


def tiny_tokenizer() -> CLIPTokenizer:
    """Train a CLIP byte-pair tokenizer on a few captions. It is the same in every process."""
    like_clip = CLIPTokenizer().backend_tokenizer
    byte_pairs = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    byte_pairs.normalizer, byte_pairs.pre_tokenizer = like_clip.normalizer, like_clip.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Given in advance, letters are numbered in this order. Otherwise those that end words are numbered in the order of
    # a hash map, and pairs of equal frequency are merged in another order each time.
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    trainer = trainers.BpeTrainer(
        vocab_size=len(tokens) + 40, special_tokens=tokens, end_of_word_suffix="</w>", show_progress=False
    )
    byte_pairs.train_from_iterator(CAPTIONS * 4, trainer)
    merges = [tuple(pair) for pair in json.loads(byte_pairs.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=byte_pairs.get_vocab(), merges=merges, model_max_length=MAX_LENGTH)


def tiny_text_encoder(tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPTextModel:
    """Make a text encoder for this tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with _seeded(seed):
        text_encoder = CLIPTextModel(config).eval()
        # The usual initialisation is so small that all prompts look alike.
        for parameter in text_encoder.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return text_encoder


def tiny_vae(seed: int = 1, **overrides: Any) -> SDAutoencoderKL:
    """Make an autoencoder from 32x32 images to 8x8 latents."""
    config: dict[str, Any] = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 32,
        "scaling_factor": 0.7,
    }
    with _seeded(seed):
        return SDAutoencoderKL(**{**config, **overrides}).eval()


def tiny_unet(seed: int = 2, **overrides: Any) -> SDUNet2DConditionModel:
    """Make a U-Net for these latents and prompts."""
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": HIDDEN_SIZE,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    with _seeded(seed):
        return SDUNet2DConditionModel(**{**config, **overrides}).eval()


def tiny_unconditional_unet(seed: int = 3, **overrides: Any) -> SDUNet2DConditionModel:
    """Make a U-Net that takes no prompts."""
    config: dict[str, Any] = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return tiny_unet(seed, **{**config, **overrides})


def tiny_scheduler(**overrides: Any) -> SDDDPMScheduler:
    """Make a scheduler for latents, with the settings that Stable Diffusion pipelines insist on."""
    config: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "steps_offset": 1,
    }
    return SDDDPMScheduler(**{**config, **overrides})


def tiny_components() -> dict[str, Any]:
    """Make the five components of a text-to-image pipeline."""
    tokenizer = tiny_tokenizer()
    return {
        "vae": tiny_vae(),
        "text_encoder": tiny_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "unet": tiny_unet(),
        "scheduler": tiny_scheduler(),
    }


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
