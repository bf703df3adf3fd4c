"""Looking at the images: unreadable, uncaptioned, identical and small ones."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from training.config import DataConfig
from training.data.catalogue import BUILT_IN
from training.data.encoded_images import EncodedImageSource
from training.data.image_source import ImageSource
from training.data.stored_datasets import find_splits
from training.diagnosis.finding import Finding, Level, some_of

MAX_IMAGES = 10_000
"""Of larger data sets this many images are looked at, spread evenly."""


@dataclass(frozen=True)
class _Looked:
    """What was seen of an image: what is wrong with it, or else a digest of its file and its size."""

    problem: str | None
    digest: bytes = b""
    size: tuple[int, int] = (0, 0)


def training_source(data: DataConfig) -> EncodedImageSource | None:
    """Open the training images of a stored data set, bad ones included; `None` for data that are made or streamed.

    Raises:
        DataError: If the data set cannot be read.
    """
    if data.dataset in BUILT_IN or data.streaming:
        return None
    splits = find_splits(
        data.dataset,
        image_column=data.image_column,
        caption_column=data.caption_column,
        max_image_pixels=data.max_image_pixels,
        dataset_revision=data.dataset_revision,
        dataset_config_name=data.dataset_config_name,
    )
    source: EncodedImageSource = splits["train" if "train" in splits else next(iter(splits))]()
    return source


def check_images(source: EncodedImageSource, resolution: int, on_bad_sample: str) -> tuple[list[Finding], list[int]]:
    """Read every image as far as is needed to know that it can be decoded.

    Args:
        source (`EncodedImageSource`): The images.
        resolution (`int`): Of training, in pixels.
        on_bad_sample (`str`): What the run does with bad ones: `"error"` or `"skip"`.

    Returns:
        The findings, and the indices of the images that can be used.
    """
    stride = max(1, -(-len(source) // MAX_IMAGES))
    indices = range(0, len(source), stride)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        looked = dict(zip(indices, pool.map(lambda index: _look(source, index), indices), strict=True))
    usable = [index for index, seen in looked.items() if seen.problem is None]
    share = f"{len(looked)} images" if stride == 1 else f"{len(looked)} of {len(source)} images, spread evenly"
    findings = [Finding(Level.FINE, "images", f"{share}: {len(usable)} can be read")]
    problems = [seen.problem for seen in looked.values() if seen.problem is not None]
    if problems:
        level = Level.ERROR if on_bad_sample == "error" or not usable else Level.WARNING
        mend = "mend or remove them" + ("" if on_bad_sample == "skip" else ", or set data.on_bad_sample: skip")
        findings.append(Finding(level, "bad samples", f"{len(problems)}: {some_of(problems)}", mend))
    findings += _identical(source, looked)
    small = [index for index in usable if min(looked[index].size) < resolution]
    if small:
        names = some_of(
            [f"{source.name(index)} ({looked[index].size[0]} x {looked[index].size[1]})" for index in small]
        )
        found = f"{len(small)} images are smaller than {resolution} pixels and would be enlarged: {names}"
        findings.append(Finding(Level.WARNING, "small images", found, "remove them, or lower data.resolution"))
    return findings, usable


def _look(source: EncodedImageSource, index: int) -> _Looked:
    problem = source.problem(index, verify=True)
    if problem is not None:
        return _Looked(problem)
    encoded = source.encoded(index)
    content = Path(encoded).read_bytes() if isinstance(encoded, str) else encoded
    return _Looked(None, hashlib.blake2b(content, digest_size=16).digest(), source.image_size(index))


def _identical(source: ImageSource, looked: dict[int, _Looked]) -> list[Finding]:
    by_digest = defaultdict(list)
    for index, seen in looked.items():
        if seen.problem is None:
            by_digest[seen.digest].append(index)
    groups = [group for group in by_digest.values() if len(group) > 1]
    if not groups:
        return []
    extra = sum(len(group) - 1 for group in groups)
    pairs = some_of([f"{source.name(group[0])} = {source.name(group[1])}" for group in groups])
    contradictory = sum(1 for group in groups if len({str(source.captions[index]) for index in group}) > 1)
    found = f"{extra} images are copies of others, to the byte: {pairs}; {contradictory} groups have several captions"
    mend = "remove copies: a model learns by heart what it sees often, and held-out copies flatter its scores"
    return [Finding(Level.WARNING, "identical images", found, mend)]
