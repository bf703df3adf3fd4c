"""The pass over a data set before training: bad samples are named in one error, or left out with one warning."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from training.data.encoded_images import EncodedImageSource
from training.data.errors import DataError
from training.data.streamed_images import StreamedImageSource

MAX_VERIFIED_IMAGES = 20_000
NUM_STREAMED_IMAGES = 200
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
    check_choice(on_bad_sample)
    verify = on_bad_sample == "skip" or len(indices) <= MAX_VERIFIED_IMAGES
    problems = _problems(source, indices, verify)
    tell_problems([problem for problem in problems if problem is not None], len(indices), on_bad_sample, dataset)
    return [index for index, problem in zip(indices, problems, strict=True) if problem is None]


def unusable_streamed(source: StreamedImageSource, on_bad_sample: str, dataset: str) -> np.ndarray:
    """Check a streamed source before long work starts: all captions, by its index, and some images.

    These are the first 200, and the last one of each shard, of 200 shards at most. An image that is found to be
    damaged later is an error, or is replaced by the next one if bad samples are to be skipped (`CaptionedImages`).

    Args:
        source (`StreamedImageSource`): The images.
        on_bad_sample (`str`): `"error"` or `"skip"`.
        dataset (`str`): Name of the data set, for the message.

    Returns:
        `numpy.ndarray`, int64: sorted indices of the samples that are known to be bad.

    Raises:
        DataError: If samples are bad and `on_bad_sample` is `"error"`, or a shard cannot be read.
    """
    check_choice(on_bad_sample)
    ends = source.index.starts[1:][np.diff(source.index.starts) > 0]
    places = np.linspace(0, len(ends) - 1, min(len(ends), NUM_STREAMED_IMAGES)).astype(int)
    first = np.arange(min(len(source), NUM_STREAMED_IMAGES))
    tested = [index for index in np.union1d(first, ends[places] - 1).tolist() if index not in source.problems]
    told = dict(zip(tested, _problems(source, tested, verify=True), strict=True))
    bad = sorted({*source.problems, *(index for index, problem in told.items() if problem is not None)})
    named = [told.get(index) or source.problem(index, verify=False) or "" for index in bad[:NUM_NAMED_PROBLEMS]]
    tell_problems([*named, *[""] * (len(bad) - len(named))], len(source), on_bad_sample, dataset)
    return np.array(bad, dtype=np.int64)


def _problems(source: EncodedImageSource, indices: Sequence[int], verify: bool) -> list[str | None]:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(lambda index: source.problem(index, verify), indices))


def check_choice(on_bad_sample: str) -> None:
    """Refuse what `data.on_bad_sample` may not be.

    Args:
        on_bad_sample (`str`): `"error"` or `"skip"`.

    Raises:
        DataError: If it is something else.
    """
    if on_bad_sample not in ("error", "skip"):
        raise DataError(f"data.on_bad_sample is {on_bad_sample!r}; allowed: 'error', 'skip'")


def tell_problems(problems: Sequence[str], num_samples: int, on_bad_sample: str, dataset: str) -> None:
    """Raise one error about bad samples, or warn once; without any, do nothing.

    Args:
        problems (sequence of `str`): What is wrong with each bad sample, after its name.
        num_samples (`int`): How many samples were checked.
        on_bad_sample (`str`): `"error"` or `"skip"`.
        dataset (`str`): Name of the data set, for the message.

    Raises:
        DataError: If there are bad samples and `on_bad_sample` is `"error"`.
    """
    if problems and on_bad_sample == "error":
        summary = _summary(problems, num_samples, dataset)
        raise DataError(f"{summary} (data.on_bad_sample: skip leaves such samples out)")
    if problems:
        logger.warning("left out: %s", _summary(problems, num_samples, dataset))


def _summary(problems: Sequence[str], num_samples: int, dataset: str) -> str:
    named = "; ".join(problems[:NUM_NAMED_PROBLEMS])
    more = len(problems) - NUM_NAMED_PROBLEMS
    others = f"; and {more} more" if more > 0 else ""
    return f"data.dataset {dataset!r}: {len(problems)} of {num_samples} samples cannot be used: {named}{others}"
