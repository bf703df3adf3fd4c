"""The pass over a data set before training: bad samples are named in one error, or left out with one warning."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from training.data.encoded_images import EncodedImageSource
from training.data.errors import DataError

MAX_VERIFIED_IMAGES = 20_000
NUM_NAMED_PROBLEMS = 5

logger = logging.getLogger(__name__)


def usable_indices(source: EncodedImageSource, indices: Sequence[int], on_bad_sample: str, dataset: str) -> list[int]:
    """Check samples before long work starts: captions, files, headers and sizes of all.

    The images' data are read too, to find those that are cut or damaged, if there are at most `MAX_VERIFIED_IMAGES`
    (a few milliseconds each, in threads) or bad samples are to be skipped, since none can be skipped later. In larger
    data sets, a damaged image is named when training reads it.

    Args:
        source (`EncodedImageSource`): The images.
        indices (sequence of `int`): Which of them to check.
        on_bad_sample (`str`): `"error"` or `"skip"`.
        dataset (`str`): Name of the data set, for the message.

    Returns:
        `list[int]`: the indices of the samples that can be used.

    Raises:
        DataError: If samples are bad and `on_bad_sample` is `"error"`, or if `on_bad_sample` is something else.
    """
    if on_bad_sample not in ("error", "skip"):
        raise DataError(f"data.on_bad_sample is {on_bad_sample!r}; allowed: 'error', 'skip'")
    verify = on_bad_sample == "skip" or len(indices) <= MAX_VERIFIED_IMAGES
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        problems = list(pool.map(lambda index: source.problem(index, verify), indices))
    found = [problem for problem in problems if problem is not None]
    if found and on_bad_sample == "error":
        raise DataError(f"{_summary(found, len(indices), dataset)} (data.on_bad_sample: skip leaves such samples out)")
    if found:
        logger.warning("left out: %s", _summary(found, len(indices), dataset))
    return [index for index, problem in zip(indices, problems, strict=True) if problem is None]


def _summary(problems: list[str], num_samples: int, dataset: str) -> str:
    named = "; ".join(problems[:NUM_NAMED_PROBLEMS])
    more = len(problems) - NUM_NAMED_PROBLEMS
    others = f"; and {more} more" if more > 0 else ""
    return f"data.dataset {dataset!r}: {len(problems)} of {num_samples} samples cannot be used: {named}{others}"
