"""The tokenizer that is trained on captions: complete, repeatable, and as CLIP wants it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.training.runs import ROOT, environment
from training.data.clip_tokenizer import tokenize, train_clip_tokenizer

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CAPTIONS = [f"a handwritten {word}" for word in WORDS]
SMALLEST = 514
START, END = "<|startoftext|>", "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return train_clip_tokenizer(CAPTIONS, vocab_size=600, model_max_length=16)


def ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    return tokenizer(text).input_ids


def decoded(tokenizer: CLIPTokenizer, text: str) -> str:
    return tokenizer.decode(ids(tokenizer, text), skip_special_tokens=True).strip()


def test_the_vocabulary_is_bytes_merges_and_marks(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    assert (vocabulary[START], vocabulary[END]) == (len(tokenizer) - 2, len(tokenizer) - 1)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (len(tokenizer) - 2, len(tokenizer) - 1)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert all(len(token.removesuffix("</w>")) == 1 for token, number in vocabulary.items() if number < 512)


@pytest.mark.parametrize("vocab_size", [SMALLEST, SMALLEST + 1, 540, 600, 8192])
def test_the_vocabulary_is_no_larger_than_allowed(vocab_size):
    tokenizer = train_clip_tokenizer(CAPTIONS, vocab_size)
    assert SMALLEST <= len(tokenizer) <= vocab_size
    assert len(tokenizer) == vocab_size or vocab_size > 560
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.eos_token_id != 2


@pytest.mark.parametrize("captions", [[], [""], ["a"], ["aaaa aaaa abab"], ["\U0001f600 \u00e9t\u00e9"], [" "]])
def test_any_captions_will_do(captions):
    tokenizer = train_clip_tokenizer(captions, 600)
    assert tokenizer.eos_token_id == len(tokenizer) - 1 >= SMALLEST - 1
    assert decoded(tokenizer, "some other words") == "some other words"


@pytest.mark.parametrize("caption", CAPTIONS)
def test_captions_come_back_in_few_tokens(tokenizer, caption):
    assert decoded(tokenizer, caption) == caption
    assert len(ids(tokenizer, caption)) <= 6


def without_spaces(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("vocab_size", [SMALLEST, 600])
def test_every_text_has_tokens(vocab_size):
    """All characters of two bytes, and some of three and four: nothing is unknown, and bytes come back."""
    tokenizer = train_clip_tokenizer(CAPTIONS, vocab_size)
    letters = tokenizer.get_vocab()
    for code in [*range(0x20, 0x800), 0x20AC, 0x4E2D, 0xFFFD, 0x1F600, 0x10FFFD]:
        character = chr(code)
        numbers = ids(tokenizer, character)
        assert numbers[0] == tokenizer.bos_token_id
        assert numbers[-1] == tokenizer.eos_token_id
        # The end mark inside would be an unknown letter: it is what CLIP's tokenizer writes for one.
        assert set(numbers[1:-1]) <= set(letters.values()) - {tokenizer.bos_token_id, tokenizer.eos_token_id}
        # What CLIP takes for two words, such as a letter and a mark that nothing composes, comes back with a space.
        normal = tokenizer.backend_tokenizer.normalizer.normalize_str(character)
        assert without_spaces(tokenizer.decode(numbers, skip_special_tokens=True)) == without_spaces(normal)


def test_every_byte_is_a_token_inside_and_at_the_end_of_a_word(tokenizer):
    vocabulary = tokenizer.get_vocab()
    byte_letters = [token for token, number in vocabulary.items() if number < 256]
    assert len(byte_letters) == 256
    assert all(letter + "</w>" in vocabulary for letter in byte_letters)


def test_text_is_normalised_as_by_clip(tokenizer):
    assert ids(tokenizer, "A  HANDWRITTEN\n Seven") == ids(tokenizer, "a handwritten seven")
    assert ids(tokenizer, "e\u0301") == ids(tokenizer, "\u00e9")


def test_merges_are_learned_from_frequent_words():
    tokenizer = train_clip_tokenizer(["seven"] * 50 + ["zyx"], SMALLEST + 4)
    assert len(ids(tokenizer, "seven")) == 3
    assert len(ids(tokenizer, "zyx")) == 5


def test_tensors_of_tokens(tokenizer):
    input_ids = tokenize(tokenizer, ["a handwritten seven", "", "seven " * 40])
    assert (input_ids.shape, input_ids.dtype) == ((3, 16), torch.int64)
    assert (input_ids[:, 0] == tokenizer.bos_token_id).all()
    assert (input_ids[:, -1] == tokenizer.eos_token_id).all()
    assert (input_ids[1, 1:] == tokenizer.eos_token_id).all()


def test_clip_pools_at_the_end_mark(tokenizer):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        eos_token_id=tokenizer.eos_token_id,
    )
    output = CLIPTextModel(config).eval()(tokenize(tokenizer, ["a handwritten seven"]))
    position = len(ids(tokenizer, "a handwritten seven")) - 1
    torch.testing.assert_close(output.pooler_output[0], output.last_hidden_state[0, position])


def test_what_is_saved_is_loaded(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.model_max_length == 16
    texts = [*CAPTIONS, "", "Something \u00e9lse, 42!", "\U0001f600"]
    assert torch.equal(tokenize(loaded, texts), tokenize(tokenizer, texts))
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (
        tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    )  # fmt: skip


TIES = [f"{a}{b}{a} {b}{a}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "zyxwvutsrq"]

PRINT_TOKENS = """
from tests.training.data.test_clip_tokenizer import TIES
from training.data.clip_tokenizer import train_clip_tokenizer
print(sorted(train_clip_tokenizer(TIES, 700).get_vocab().items()))
"""


def test_every_process_learns_the_same_vocabulary():
    """Of many pairs that are equally frequent the same ones are merged: no hash map decides."""
    here = sorted(train_clip_tokenizer(TIES, 700).get_vocab().items())
    command = [sys.executable, "-W", "ignore", "-c", PRINT_TOKENS]
    there = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(here)
