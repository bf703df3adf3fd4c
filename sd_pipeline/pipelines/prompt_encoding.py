"""Prompts to embeddings: what the cross-attention of the U-Net looks at."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.utils import scale_lora_layers, unscale_lora_layers
from transformers import CLIPTextModel, CLIPTokenizer

logger = logging.getLogger(__name__)


def encode_prompts(
    prompts: list[str],
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    device: torch.device | str | None = None,
    max_length: int | None = None,
    clip_skip: int | None = None,
) -> torch.Tensor:
    """Tokenize prompts, padded to one length, and run the text encoder on them.

    Args:
        prompts (`list[str]`): One or more. What exceeds the tokenizer's maximum is cut, with a warning that quotes it.
        tokenizer ([`~transformers.CLIPTokenizer`]): As it was in training.
        text_encoder ([`~transformers.CLIPTextModel`]): As it was in training.
        device (`torch.device`, *optional*): Where to; by default where the text encoder is.
        max_length (`int`, *optional*): Tokens of each prompt; by default as many as the tokenizer and the text encoder
            allow.
        clip_skip (`int`, *optional*): How many of the text encoder's last layers to leave out.

    Returns:
        `torch.Tensor` of shape `(len(prompts), max_length, hidden_size)`, of the text encoder's dtype.
    """
    # A tokenizer that was saved without a maximum claims one of 1e30.
    max_length = max_length or min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    tokens = tokenizer(prompts, padding="max_length", max_length=max_length, truncation=True, return_tensors="pt")
    _warn_about_truncation(prompts, tokenizer, max_length)
    input_ids = tokens.input_ids.to(device or text_encoder.device)
    if clip_skip is None:
        return text_encoder(input_ids)[0]
    hidden_states = text_encoder(input_ids, output_hidden_states=True).hidden_states
    # Until transformers 5 the network was one module deeper.
    return getattr(text_encoder, "text_model", text_encoder).final_layer_norm(hidden_states[-(clip_skip + 1)])


@contextmanager
def scaled_adapters(text_encoder: CLIPTextModel | None, lora_scale: float | None) -> Iterator[None]:
    """Multiply the effect of a text encoder's LoRA adapters for the time of a `with` block.

    Args:
        text_encoder ([`~transformers.CLIPTextModel`], *optional*): With or without adapters.
        lora_scale (`float`, *optional*): The factor.
    """
    if text_encoder is None or lora_scale is None:
        yield
        return
    scale_lora_layers(text_encoder, lora_scale)
    try:
        yield
    finally:
        unscale_lora_layers(text_encoder, lora_scale)


def repeat_per_prompt(embeds: torch.Tensor, num_images_per_prompt: int) -> torch.Tensor:
    """Repeat each prompt's embedding for its images, which stay side by side.

    Args:
        embeds (`torch.Tensor` of shape `(num_prompts, length, hidden_size)`): Floating point.
        num_images_per_prompt (`int`): At least 1.

    Returns:
        `torch.Tensor` of shape `(num_prompts * num_images_per_prompt, length, hidden_size)`, of the same dtype.
    """
    return embeds.repeat_interleave(num_images_per_prompt, dim=0)


def _warn_about_truncation(prompts: list[str], tokenizer: CLIPTokenizer, max_length: int) -> None:
    for prompt, ids in zip(prompts, tokenizer(prompts, truncation=False, verbose=False).input_ids, strict=True):
        if len(ids) > max_length:
            removed = tokenizer.decode(ids[max_length - 1 : -1])
            logger.warning(f"The prompt {prompt!r} is longer than {max_length} tokens; this was cut off: {removed!r}")
