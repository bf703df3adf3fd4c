"""How well images go with their captions, as a CLIP sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from training.data.clip_tokenizer import tokenize
from training.evaluation.clip_judge import ClipJudge

_BATCH = 256


@torch.no_grad()
def clip_text_features(clip: ClipJudge, captions: Sequence[str]) -> np.ndarray:
    """Embed captions by the text tower of a CLIP: its pooled output, projected, and not normalised.

    Args:
        clip (`ClipJudge`): The CLIP.
        captions (sequence of `str`): The captions; what is too long is cut.

    Returns:
        `numpy.ndarray` of shape `(len(captions), projection_dim)`, float32.
    """
    input_ids = tokenize(clip.tokenizer, captions).to(clip.model.device)
    pooled = [clip.model.text_model(input_ids=part).pooler_output for part in input_ids.split(_BATCH)]
    return clip.model.text_projection(torch.cat(pooled)).cpu().numpy()


def clip_scores(image_features: np.ndarray, text_features: np.ndarray) -> np.ndarray:
    """Score every image with its caption: 100 max(cos(image, text), 0).

    This is Hessel et al. 2021, eq. 1, with 100 in the place of their factor 2.5.

    Args:
        image_features (`numpy.ndarray` of shape `(num_images, num_features)`): Embedded images, of any length.
        text_features (`numpy.ndarray` of the same shape): Their embedded captions.

    Returns:
        `numpy.ndarray` of shape `(num_images,)`, float64, in [0, 100].
    """
    images, texts = image_features.astype(np.float64), text_features.astype(np.float64)
    lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    return 100 * np.maximum((images * texts).sum(1) / lengths, 0)
