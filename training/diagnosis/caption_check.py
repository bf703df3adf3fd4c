"""Looking at the captions: how many there are, and which are cut at the tokenizer's length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from transformers import CLIPTokenizer

from training.config import TrainConfig
from training.data.clip_tokenizer import train_clip_tokenizer
from training.diagnosis.finding import Finding, Level, some_of
from training.tasks.components import load_text_encoder, text_model_config
from training.tasks.pretrained import load_pretrained


def tokenizer_of(config: TrainConfig, captions: Sequence[str]) -> CLIPTokenizer | None:
    """Load the tokenizer of a run, or train it as the run would; `None` for a run without text."""
    pretrained = load_pretrained(config)
    if pretrained is not None:
        return pretrained.tokenizer
    if "text_encoder" not in config.stages:
        return None
    block = config.text_encoder
    if block.pretrained_model_name_or_path is not None:
        return load_text_encoder(block.pretrained_model_name_or_path)[0]
    length = text_model_config(block, None).max_position_embeddings
    return train_clip_tokenizer(captions, block.vocab_size, length)


def check_captions(captions: Sequence[str], tokenizer: CLIPTokenizer) -> list[Finding]:
    """Find captions that are cut at the tokenizer's length, and say how the captions are spread.

    Args:
        captions (sequence of `str`): Not empty ones.
        tokenizer (`transformers.CLIPTokenizer`): That of the run.
    """
    if not captions:
        return []
    longest = tokenizer.model_max_length
    distinct = Counter(captions)
    lengths = {caption: len(tokenizer(caption, truncation=False).input_ids) for caption in distinct}
    cut = [caption for caption in distinct if lengths[caption] > longest]
    number = sum(distinct[caption] for caption in cut)
    findings = [
        Finding(
            Level.FINE,
            "captions",
            f"{len(captions)}, {len(distinct)} distinct, at most {max(lengths.values())} tokens",
        )
    ]
    if cut:
        found = (
            f"{number} captions are longer than {longest} tokens and would be cut: {some_of([c[:60] for c in cut])}"
        )
        mend = "shorten them, raise text_encoder.model.max_position_embeddings, or live with what is lost"
        findings.append(Finding(Level.WARNING, "long captions", found, mend))
    if len(distinct) == 1:
        mend = "check data.caption_column; or leave the text_encoder out of stages"
        findings.append(Finding(Level.WARNING, "captions", f"all are {captions[0]!r}", mend))
    return findings
