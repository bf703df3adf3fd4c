"""The pass over labelled images before training: bad samples are named in one error, or left out with one warning."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from training.data.errors import DataError
from training.data.labelled_source import EncodedLabelledSource
from training.data.sample_checks import check_choice, tell_problems

ImageCheck = Callable[[Any], object]
"""Raises `ValueError` for an image, as a source gives it, that the network cannot take."""


def usable_labelled(
    source: EncodedLabelledSource,
    indices: Sequence[int],
    check_image: ImageCheck | None,
    on_bad_sample: str,
    dataset: str,
) -> tuple[list[int], set[int]]:
    """Read every image and its labels, in threads, before long work starts.

    Args:
        source (`EncodedLabelledSource`): The images.
        indices (sequence of `int`): Which of them to check.
        check_image (callable, *optional*): Raises `ValueError` for an image that the network cannot take.
        on_bad_sample (`str`): `"error"` or `"skip"`.
        dataset (`str`): Name of the data set, for the message.

    Returns:
        `tuple[list[int], set[int]]`: the indices of the samples that can be used, and the classes in them.

    Raises:
        DataError: If samples are bad and `on_bad_sample` is `"error"`, or if `on_bad_sample` is something else.
    """
    check_choice(on_bad_sample)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        findings = list(pool.map(lambda index: _inspect(source, index, check_image), indices))
    problems = [finding for finding in findings if isinstance(finding, str)]
    tell_problems(problems, len(indices), on_bad_sample, dataset)
    usable = [index for index, finding in zip(indices, findings, strict=True) if not isinstance(finding, str)]
    return usable, {number for finding in findings if not isinstance(finding, str) for number in finding}


def fit_image(image: Any, name: str, check_image: ImageCheck | None) -> None:
    """Ask whether the network can take an image.

    Args:
        image (`PIL.Image.Image` or `np.ndarray`): The image.
        name (`str`): What messages call it.
        check_image (callable, *optional*): Raises `ValueError` for an image that the network cannot take.

    Raises:
        DataError: If it cannot.
    """
    try:
        if check_image is not None:
            check_image(image)
    except ValueError as error:
        raise DataError(f"{name}: {' '.join(str(error).split())}") from error


def _inspect(source: EncodedLabelledSource, index: int, check_image: ImageCheck | None) -> str | set[int]:
    """Tell what is wrong with a sample or, if nothing is, which classes it shows."""
    if index in source.problems:
        return f"{source.name(index)}: {source.problems[index]}"
    try:
        image = source.image(index)
        fit_image(image, source.name(index), check_image)
        labels = source.labels(index)
    except DataError as error:
        return str(error)
    height, width = labels.shape
    if image.size != (width, height):
        of_labels = f"its labels, {source.label_file(index).name}, have {width}x{height}"
        return f"{source.name(index)}: {image.width}x{image.height} pixels, but {of_labels}; allowed: the same size"
    return source.rules.classes_in(labels)
