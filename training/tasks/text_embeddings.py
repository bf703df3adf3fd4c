"""The captions of a data set as the text encoder sees them, encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from training.data.clip_tokenizer import tokenize

# Captions encoded at a time. It is no setting, so that the bits depend on nothing else: a resumed run has the same.
_BATCH_SIZE = 32


class TextEmbeddings:
    """Encodes every distinct caption, and the empty one, and keeps the result in memory, in float32.

    Every process encodes all of them, since it may be given any.

    Args:
        captions (iterable of `str`): Any number of times each.
        tokenizer (`transformers.CLIPTokenizer`): Cuts what is too long.
        text_encoder (`transformers.CLIPTextModel`): Frozen; encodes on its device.

    Attributes:
        hidden_states (`torch.Tensor` of shape `(num_captions, length, width)`): On the CPU.
    """

    @torch.no_grad()
    def __init__(self, captions: Iterable[str], tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        distinct = list(dict.fromkeys(["", *captions]))
        self._rows = {caption: row for row, caption in enumerate(distinct)}
        config = text_encoder.config
        self.hidden_states = torch.empty(len(distinct), tokenizer.model_max_length, config.hidden_size)
        is_quiet = not PartialState().is_main_process
        with tqdm(total=len(distinct), desc="encoding", unit="caption", disable=is_quiet) as progress:
            for first in range(0, len(distinct), _BATCH_SIZE):
                rows = slice(first, first + _BATCH_SIZE)
                input_ids = tokenize(tokenizer, distinct[rows]).to(text_encoder.device)
                self.hidden_states[rows] = text_encoder(input_ids)[0].float().cpu()
                progress.update(len(input_ids))

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Give the encodings of some captions.

        Args:
            captions (sequence of `str`): Each one of those that were encoded, or empty.

        Returns:
            `torch.Tensor` of shape `(len(captions), length, width)`, float32, on the CPU.

        Raises:
            KeyError: If a caption was not encoded.
        """
        return self.hidden_states[[self._rows[caption] for caption in captions]]
