"""A CLIP byte-pair tokenizer trained on the captions of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

_END_OF_WORD = "</w>"
_MARKS = ("<|startoftext|>", "<|endoftext|>")


def train_clip_tokenizer(captions: Iterable[str], vocab_size: int, model_max_length: int = 77) -> CLIPTokenizer:
    """Train a tokenizer with CLIP's normalisation, word splitting and order of the vocabulary.

    The vocabulary is all bytes, all bytes at the end of a word, the merges in the order they were learned, and the
    marks of start and end. So every text has tokens, and the end mark has the highest number: CLIP pools the last
    state at the largest token (and in another way where the end mark is number 2, which it never is here).

    Args:
        captions (iterable of `str`): The captions; repetitions count.
        vocab_size (`int`): Largest size of the vocabulary; at least 514.
        model_max_length (`int`, defaults to 77): Tokens of a prompt, marks included.

    Returns:
        `transformers.CLIPTokenizer`: pads with the end mark, as that of Stable Diffusion 1 does.
    """
    template = CLIPTokenizer().backend_tokenizer
    byte_pairs = Tokenizer(models.BPE(end_of_word_suffix=_END_OF_WORD))
    byte_pairs.normalizer = template.normalizer
    byte_pairs.pre_tokenizer = template.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [*alphabet, *(letter + _END_OF_WORD for letter in alphabet)]
    # As special tokens the letters are numbered in this order. Left to itself the trainer numbers those at the end of
    # a word in the order of a hash map, which breaks ties between merges in another way each time.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_MARKS),
        special_tokens=letters,
        end_of_word_suffix=_END_OF_WORD,
        show_progress=False,
    )
    byte_pairs.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(byte_pairs.to_str())["model"]["merges"]]
    # Two merges may give one token ("a" + "bc" and "ab" + "c"); it is listed once.
    tokens = list(dict.fromkeys([*letters, *("".join(pair) for pair in merges), *_MARKS]))
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,  # type: ignore[arg-type]
        model_max_length=model_max_length,
    )


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> torch.Tensor:
    """Turn captions into tokens of equal length.

    Args:
        tokenizer (`transformers.CLIPTokenizer`): The tokenizer.
        captions (sequence of `str`): The captions; what is longer than `model_max_length` tokens is cut.

    Returns:
        `torch.LongTensor` of shape `(len(captions), model_max_length)`.
    """
    length = tokenizer.model_max_length
    tokens = tokenizer(list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    input_ids: torch.Tensor = tokens.input_ids
    return input_ids


def distinct_tokens(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> dict[str, torch.Tensor]:
    """Turn captions into tokens, each of them once, however many samples have it.

    Args:
        tokenizer (`transformers.CLIPTokenizer`): The tokenizer.
        captions (sequence of `str`): One a sample.

    Returns:
        `dict`: `"input_ids"`, as `tokenize` gives them, and `"caption_rows"`, a `torch.LongTensor` of shape
        `(len(captions),)`: which row of them a sample has.
    """
    distinct = sorted(set(captions))
    rows = torch.tensor([distinct.index(caption) for caption in captions])
    return {"input_ids": tokenize(tokenizer, distinct), "caption_rows": rows}
