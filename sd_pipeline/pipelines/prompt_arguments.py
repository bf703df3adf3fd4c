"""Which prompts a call accepts: in words or as embeddings, negative ones, or none at all."""

from __future__ import annotations

from typing import Any

from sd_pipeline.pipelines.call_arguments import check_count, check_tensor, require


def check_prompts(
    prompt: Any,
    negative_prompt: Any,
    prompt_embeds: Any,
    negative_prompt_embeds: Any,
    *,
    has_text_encoder: bool,
    cross_attention_dim: int,
    is_guided: bool,
) -> int:
    """Check that prompts, or their embeddings, suit each other and a model that takes prompts.

    Args:
        prompt (`str` or `list[str]`, *optional*): As in a call.
        negative_prompt (`str` or `list[str]`, *optional*): As in a call.
        prompt_embeds (`torch.Tensor` of shape `(num_prompts, length, cross_attention_dim)`, *optional*): As in a call.
        negative_prompt_embeds (`torch.Tensor`, *optional*): As in a call.
        has_text_encoder (`bool`): Whether the model can read words.
        cross_attention_dim (`int`): Of the U-Net.
        is_guided (`bool`): Whether negative prompts are needed.

    Returns:
        `int`: How many prompts there are.

    Raises:
        ValueError: If one has a wrong type or shape, if one is missing, or if there are both words and embeddings.
    """
    _check_one_kind("prompt", prompt, prompt_embeds, has_text_encoder, cross_attention_dim)
    _check_one_kind("negative_prompt", negative_prompt, negative_prompt_embeds, has_text_encoder, cross_attention_dim)
    if prompt is None and prompt_embeds is None:
        choice = (
            "`prompt` or `prompt_embeds`" if has_text_encoder else "`prompt_embeds`: the model has no text encoder"
        )
        raise ValueError(f"neither prompt nor embeddings are given; give {choice}")
    if is_guided and negative_prompt_embeds is None and not has_text_encoder:
        raise ValueError("without a text encoder guidance needs `negative_prompt_embeds`; or give guidance_scale=1")

    num_prompts = len(prompt_embeds) if prompt_embeds is not None else 1 if isinstance(prompt, str) else len(prompt)
    if isinstance(negative_prompt, list):
        fits = len(negative_prompt) == num_prompts
        require(fits, "negative_prompt", negative_prompt, f"a string, or a list of {num_prompts}, one for each prompt")
    if prompt_embeds is not None and negative_prompt_embeds is not None:
        shape, negative_shape = tuple(prompt_embeds.shape), tuple(negative_prompt_embeds.shape)
        require(shape == negative_shape, "negative_prompt_embeds", f"of shape {negative_shape}", f"of shape {shape}")
    return num_prompts


def check_no_prompts(batch_size: Any, **prompts: Any) -> int:
    """Check that an unconditional model is not asked for anything.

    Args:
        batch_size (`int`, *optional*): How many images; by default 1.
        prompts (`str`, `list[str]` or `torch.Tensor`, *optional*): The prompts of a call, all `None`.

    Returns:
        `int`: How many images.

    Raises:
        ValueError: If there is a prompt of some kind, or the number is not one of images.
    """
    for name, value in prompts.items():
        if value is not None:
            raise ValueError(f"`{name}` is given, but this model is unconditional: it generates without prompts")
    if batch_size is None:
        return 1
    check_count("batch_size", batch_size)
    return batch_size


def _check_one_kind(name: str, text: Any, embeds: Any, has_text_encoder: bool, cross_attention_dim: int) -> None:
    if embeds is not None:
        check_tensor(f"{name}_embeds", embeds, (None, None, cross_attention_dim))
    if text is None:
        return
    if not has_text_encoder:
        raise ValueError(f"`{name}` is given, but this model has no text encoder; give `{name}_embeds`")
    if embeds is not None:
        raise ValueError(f"`{name}` and `{name}_embeds` are both given; give one of them")
    is_list_of_texts = isinstance(text, list) and len(text) > 0 and all(isinstance(one, str) for one in text)
    require(isinstance(text, str) or is_list_of_texts, name, text, "a string, or a list of at least one string")
