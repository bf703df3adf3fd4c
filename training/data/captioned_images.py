"""The data set that training reads: pictures as `pixel_values`, with a caption, all chance keyed by sample number."""

from __future__ import annotations

import copy
import itertools
import logging
from typing import TypedDict

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from training.data.aspect_ratio_buckets import aspect_ratio_buckets, nearest_buckets, sizes_of
from training.data.errors import DataError
from training.data.image_source import ImageSource
from training.data.image_transforms import crop_and_resize, to_pixel_values
from training.data.shard_storage import ShardError
from training.engine.bucket_order import BucketOrder
from training.engine.random_streams import sample_rng
from training.engine.sampling_order import SampleOrder

SampleKey = tuple[int, int]
"""Global sample number, which keys all chance, and index of the image."""
MAX_REPLACEMENTS = 100

logger = logging.getLogger(__name__)


class CaptionedSample(TypedDict):
    """One sample: `pixel_values` is float32 of shape `(3, height, width)` in [-1, 1]."""

    pixel_values: torch.Tensor
    caption: str
    index: int
    sample_number: int


class CaptionedImages(Dataset[CaptionedSample]):
    """Pictures of a source, upright, in RGB, cropped and scaled to [-1, 1], each with one caption.

    A sample is a pure function of (seed, global sample number, index): where a random crop lies, whether the picture
    is flipped and which of several captions it has do not depend on the worker, the process or the samples before.

    Args:
        source (`ImageSource`): The images and their captions.
        resolution (`int`): Side of the square pictures, in pixels.
        aspect_ratio_bucket_step (`int`, *optional*):
            Bring each picture to the nearest shape of `aspect_ratio_buckets`, whose sides are multiples of this and
            whose area is about that of the square; without it all pictures become squares.
        center_crop (`bool`, defaults to `True`): Crop at the centre; otherwise at a random place.
        random_flip (`bool`, defaults to `False`):
            Mirror every other picture. Captions that speak of left and right, and text in a picture, become false.
        seed (`int`, defaults to 0): The seed of the run.
        order (`SampleOrder`, *optional*): The order that training reads the samples in, if the source has its own.
        max_captions (`int`, *optional*): How many captions `captions` lists at most; all by default.
        skip_unreadable (`bool`, defaults to `False`):
            Take the next picture, and its caption, in the place of one that cannot be decoded, and warn. Which one
            that is follows from the index alone, so that resumed and split runs agree.

    Attributes:
        order (`SampleOrder` or `None`): That of the argument, or, with buckets, the `BucketOrder` whose global batches
            are of one shape each.

    Raises:
        DataError: When a picture is read that cannot be decoded (or, with `skip_unreadable`, 100 in a row), or, with
            buckets, has a header that cannot be read.

    Example:
        ```python
        >>> from training.data.captioned_images import CaptionedImages
        >>> from training.data.digits import DigitsSource
        >>> sample = CaptionedImages(DigitsSource("train"), resolution=32)[0]
        >>> sample["caption"], tuple(sample["pixel_values"].shape)
        ('a handwritten zero', (3, 32, 32))

        ```
    """

    def __init__(
        self,
        source: ImageSource,
        resolution: int,
        *,
        aspect_ratio_bucket_step: int | None = None,
        center_crop: bool = True,
        random_flip: bool = False,
        seed: int = 0,
        order: SampleOrder | None = None,
        max_captions: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        self.source = source
        self.resolution = resolution
        self.center_crop = center_crop
        self.random_flip = random_flip
        self.seed = seed
        self.order = order
        self.max_captions = max_captions
        self.skip_unreadable = skip_unreadable
        self._bucket_of: np.ndarray | None = None
        if aspect_ratio_bucket_step is not None:
            self._buckets = aspect_ratio_buckets(resolution, aspect_ratio_bucket_step)
            self._bucket_of = nearest_buckets(sizes_of(source), self._buckets)
            self.order = BucketOrder(self._bucket_of, seed)

    def __len__(self) -> int:
        return len(self.source)

    def squares(self) -> CaptionedImages:
        """Give the same pictures, all as squares: for models of one size."""
        if self._bucket_of is None:
            return self
        squares = copy.copy(self)
        squares._bucket_of = squares.order = None
        return squares

    def unreplaced(self) -> CaptionedImages:
        """Give the same pictures, none of which takes the place of another: an unreadable one is an error."""
        unreplaced = copy.copy(self)
        unreplaced.skip_unreadable = False
        return unreplaced

    def sample_size(self, index: int) -> tuple[int, int]:
        """Tell width and height of a sample, without reading the image."""
        if self._bucket_of is None:
            return self.resolution, self.resolution
        return self._buckets[self._bucket_of[index]]

    @property
    def captions(self) -> list[str]:
        """Every caption of every image, in order, or the first of them: what a tokenizer is trained on."""
        texts = (
            text for caption in self.source.captions for text in ([caption] if isinstance(caption, str) else caption)
        )
        return list(itertools.islice(texts, self.max_captions))

    def __getitem__(self, key: SampleKey | int) -> CaptionedSample:
        """Read one sample.

        Args:
            key (`tuple[int, int]` or `int`):
                Global sample number and index of the image. A single number is both.

        Returns:
            `CaptionedSample`: `pixel_values` (`torch.Tensor` of shape `(3, height, width)`, float32, in [-1, 1]),
            `caption`, `index` and `sample_number`.
        """
        sample_number, index = key if isinstance(key, tuple) else (key, key)
        picture, index = self._readable_picture(sample_number, index)
        return CaptionedSample(
            pixel_values=to_pixel_values(picture),
            caption=self.caption(sample_number, index),
            index=index,
            sample_number=sample_number,
        )

    def _readable_picture(self, sample_number: int, index: int) -> tuple[Image.Image, int]:
        """Make the picture of an image, or of the next one that can be read, and tell of which."""
        for attempt in itertools.count(1):
            try:
                return self._picture(sample_number, index), index
            except ShardError:
                raise
            except DataError as error:
                if not self.skip_unreadable or attempt == MAX_REPLACEMENTS:
                    raise
                index = (index + 1) % len(self)
                logger.warning("%s; %s takes its place", error, self.source.name(index))
        raise AssertionError("the loop returns or raises")

    def _picture(self, sample_number: int, index: int) -> Image.Image:
        image = self.source.image(index)
        position = (0.5, 0.5)
        if not self.center_crop:
            across, down = sample_rng(self.seed, "crop", sample_number).random(2)
            position = (float(across), float(down))
        image = crop_and_resize(image, self.sample_size(index), position)
        if self.random_flip and sample_rng(self.seed, "flip", sample_number).random() < 0.5:
            image = ImageOps.mirror(image)
        return image

    def caption(self, sample_number: int, index: int) -> str:
        """Give the caption of an image, or draw one of several, without reading the image.

        Args:
            sample_number (`int`): Global sample number, which keys the draw.
            index (`int`): The image.

        Returns:
            `str`: the caption.
        """
        caption = self.source.captions[index]
        if isinstance(caption, str):
            return caption
        return caption[int(sample_rng(self.seed, "caption", sample_number).integers(len(caption)))]
