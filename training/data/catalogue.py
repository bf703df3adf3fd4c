"""The data sets that a run can name in `data.dataset`, and what of them is for training and for validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from training.data.captioned_images import CaptionedImages
from training.data.digits import DigitsSource
from training.data.emoji import EmojiSource
from training.data.encoded_images import MAX_IMAGE_PIXELS
from training.data.errors import DataError
from training.data.image_source import ImageSource, SourceSubset
from training.data.remaining_samples import RemainingSamples
from training.data.sample_checks import unusable_streamed, usable_indices
from training.data.shapes import ShapesSource
from training.data.shard_listing import find_shards
from training.data.shard_storage import Shard
from training.data.splits import check_split, held_out_indices, name_of_train_split, refuse_fraction, refuse_options
from training.data.stored_datasets import Splits, find_splits
from training.data.streamed_images import MAX_LISTED_CAPTIONS, StreamedImageSource, open_streamed
from training.engine.random_streams import stream_key

BUILT_IN = ("digits", "shapes", "emoji")
_TELLS_LEFT_FROM_RIGHT = ("shapes", "emoji")
NUM_VALIDATION_SHAPES = 1000


def load_captioned_images(
    split: str,
    *,
    dataset: str,
    resolution: int,
    aspect_ratio_bucket_step: int | None = None,
    center_crop: bool = True,
    random_flip: bool = False,
    image_column: str = "image",
    caption_column: str = "text",
    on_bad_sample: str = "error",
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    num_samples: int = 50_000,
    shape_pairs: Sequence[Sequence[str]] = (),
    validation_fraction: float = 0.0,
    dataset_revision: str | None = None,
    dataset_config_name: str | None = None,
    streaming: bool = False,
    shuffle_buffer_size: int = 10_000,
    seed: int = 0,
) -> CaptionedImages:
    """Load the images and captions of a split, checked.

    The keyword arguments are keys of a run's `data` block, and the seed of the run.

    Args:
        split (`str`):
            `"train"`, or `"validation"`: images that training never sees, cropped at the centre and not flipped. These
            are the split of that name if the data set has one, else `validation_fraction` of its images, and none
            (length 0) if that is 0.
        dataset (`str`):
            `"digits"`, `"shapes"`, `"emoji"`, path of a folder (see `find_splits`) or name of a data set on the Hub.
            With `streaming`: a folder, URL or Hub data set with shards (see `find_shards`).
        resolution (`int`): Side of the square pictures, in pixels.
        aspect_ratio_bucket_step (`int`, *optional*): Bring training pictures to the nearest of several shapes, whose
            sides are multiples of this (see `aspect_ratio_buckets`). Those for validation stay squares.
        center_crop (`bool`, defaults to `True`): Crop at the centre; otherwise at a random place.
        random_flip (`bool`, defaults to `False`): Mirror every other picture. Refused for `shapes` and `emoji`.
        image_column (`str`, defaults to `"image"`): Column of the images.
        caption_column (`str`, defaults to `"text"`): Column of the captions: text, or lists of texts.
        on_bad_sample (`str`, defaults to `"error"`):
            `"error"`, or `"skip"` to leave out unreadable or too large images and samples without a caption, with one
            warning.
        max_image_pixels (`int`, defaults to 100,000,000): Pictures of more pixels are bad samples.
        num_samples (`int`, defaults to 50,000): Number of training scenes of `shapes`.
        shape_pairs (sequence of pairs of `str`, *optional*): Held-out pairs of shape and colour. Given, the scenes of
            `shapes` are those that hold one of these and no other held-out pair.
        validation_fraction (`float`, defaults to 0): Share of the images to hold out, in [0, 1).
        dataset_revision (`str`, *optional*): Branch, tag or commit on the Hub.
        dataset_config_name (`str`, *optional*): Configuration (subset) of a data set that has several.
        streaming (`bool`, defaults to `False`): Read every image where it lies when it is needed, through an index
            (`index_of_shards`), in an order that reads shard after shard (`WindowedOrder`).
        shuffle_buffer_size (`int`, defaults to 10,000): Samples that are shuffled together with `streaming`.
        seed (`int`, defaults to 0): The seed of the run; it also draws the scenes of `shapes` and the held-out images.

    Returns:
        `CaptionedImages`: the samples; `.source` has the bare images and captions.

    Raises:
        DataError: If the data set cannot be found or read, lacks a column, has bad samples or is empty, or an argument
            is out of range.
    """
    if shape_pairs and dataset != "shapes":
        raise DataError(f"data.shape_pairs is {list(shape_pairs)}; allowed for {dataset!r}: an empty list")
    _check_arguments(split, dataset, random_flip, validation_fraction, dataset_revision, dataset_config_name)
    if streaming and dataset in BUILT_IN:
        raise DataError(f"data.streaming is true; allowed for {dataset!r}: false, as its images are made here")
    is_train = split == "train"
    source: ImageSource
    order = None
    if streaming:
        shards = find_shards(dataset, dataset_revision, dataset_config_name)
        read = partial(
            open_streamed,
            image_column=image_column,
            caption_column=caption_column,
            max_image_pixels=max_image_pixels,
        )
        source = _load_streamed(split, shards, read, dataset, on_bad_sample, validation_fraction, seed)
        order = source.order(shuffle_buffer_size, seed) if isinstance(source, RemainingSamples) and is_train else None
    elif dataset == "digits":
        source = DigitsSource(split)
    elif dataset == "emoji":
        source = EmojiSource(split, resolution)
    elif dataset == "shapes":
        number, series = (num_samples, seed) if is_train else (NUM_VALIDATION_SHAPES, stream_key(seed, "validation"))
        source = ShapesSource("pair" if shape_pairs else "seen", number, resolution, series, shape_pairs)
    else:
        splits = find_splits(
            dataset,
            image_column=image_column,
            caption_column=caption_column,
            max_image_pixels=max_image_pixels,
            dataset_revision=dataset_revision,
            dataset_config_name=dataset_config_name,
        )
        source = _load_stored(split, splits, dataset, on_bad_sample, validation_fraction, seed)
    return CaptionedImages(
        source,
        resolution,
        aspect_ratio_bucket_step=aspect_ratio_bucket_step if is_train else None,
        center_crop=center_crop or not is_train,
        random_flip=random_flip and is_train,
        seed=seed,
        order=order,
        max_captions=MAX_LISTED_CAPTIONS if streaming else None,
        skip_unreadable=streaming and on_bad_sample == "skip",
    )


def _check_arguments(
    split: str,
    dataset: str,
    random_flip: bool,
    validation_fraction: float,
    dataset_revision: str | None,
    dataset_config_name: str | None,
) -> None:
    check_split(split, validation_fraction)
    if dataset in _TELLS_LEFT_FROM_RIGHT and random_flip:
        raise DataError(
            f"data.random_flip is true; allowed for {dataset}: false, as its captions tell left from right"
        )
    if dataset in BUILT_IN:
        refuse_options(dataset, validation_fraction, dataset_revision, dataset_config_name)


def _load_streamed(
    split: str,
    shards: Mapping[str, list[Shard]],
    read: Callable[[list[Shard]], StreamedImageSource],
    dataset: str,
    on_bad_sample: str,
    validation_fraction: float,
    seed: int,
) -> ImageSource:
    if "validation" in shards:
        refuse_fraction(dataset, validation_fraction)
    has_split = split == "validation" and "validation" in shards
    source = read(shards["validation" if has_split else name_of_train_split(shards, dataset)])
    held_out = np.array(
        [] if has_split else sorted(held_out_indices(len(source), validation_fraction, seed)), dtype=np.int64
    )
    unusable = unusable_streamed(source, on_bad_sample, dataset)
    if split == "validation" and not has_split:
        return SourceSubset(source, np.setdiff1d(held_out, unusable).tolist())
    samples = RemainingSamples(source, np.union1d(held_out, unusable))
    if split == "train" and not len(samples):
        raise DataError(f"data.dataset {dataset!r} is empty: it has no usable image")
    return samples


def _load_stored(
    split: str, splits: Splits, dataset: str, on_bad_sample: str, validation_fraction: float, seed: int
) -> ImageSource:
    if "validation" in splits:
        refuse_fraction(dataset, validation_fraction)
    if split == "validation" and "validation" in splits:
        source = splits["validation"]()
        indices = list(range(len(source)))
    else:
        source = splits[name_of_train_split(splits, dataset)]()
        held_out = held_out_indices(len(source), validation_fraction, seed)
        indices = [i for i in range(len(source)) if (i in held_out) == (split == "validation")]
    usable = usable_indices(source, indices, on_bad_sample, dataset)
    if split == "train" and not usable:
        raise DataError(f"data.dataset {dataset!r} is empty: it has no usable image")
    return SourceSubset(source, usable)
