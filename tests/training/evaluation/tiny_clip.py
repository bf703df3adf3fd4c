"""A real CLIP at a tiny size, saved as a run saves it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from tests.components import HIDDEN_SIZE, MAX_LENGTH, tiny_tokenizer

IMAGE_SIZE = 32
PROJECTION_DIM = 12


def tiny_clip(seed: int = 0) -> CLIPModel:
    """Make both towers with weights that tell images and captions apart."""
    tokenizer = tiny_tokenizer()
    tower = {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "projection_dim": PROJECTION_DIM,
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_LENGTH,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(
        text_config={**tower, **text},
        vision_config={**tower, "image_size": IMAGE_SIZE, "patch_size": 16},
        projection_dim=PROJECTION_DIM,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip = CLIPModel(config).eval()
        for parameter in clip.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return clip


def save_as_run(run: Path, clip: CLIPModel) -> Path:
    """Save a CLIP and its tokenizer where the text encoder's stage does, and return where the pipeline would be."""
    clip.save_pretrained(run / "text_encoder" / "final" / "clip")
    tiny_tokenizer().save_pretrained(run / "text_encoder" / "final" / "tokenizer")
    return run / "pipeline"
