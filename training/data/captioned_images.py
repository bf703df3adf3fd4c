"""The data set that training reads: pictures as `pixel_values`, with a caption, all chance keyed by sample number."""

from __future__ import annotations

from typing import TypedDict

import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from training.data.aspect_ratio_buckets import aspect_ratio_buckets, nearest_buckets, sizes_of
from training.data.image_source import ImageSource
from training.data.image_transforms import crop_and_resize, to_pixel_values
from training.engine.bucket_order import BucketOrder
from training.engine.random_streams import sample_rng

SampleKey = tuple[int, int]
"""Global sample number, which keys all chance, and index of the image."""


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

    Attributes:
        order (`BucketOrder` or `None`): With buckets, the order whose global batches are of one shape each.

    Raises:
        DataError: When a picture is read that cannot be decoded, or, with buckets, has a header that cannot be read.

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
    ) -> None:
        self.source = source
        self.resolution = resolution
        self.center_crop = center_crop
        self.random_flip = random_flip
        self.seed = seed
        self.order: BucketOrder | None = None
        if aspect_ratio_bucket_step is not None:
            self._buckets = aspect_ratio_buckets(resolution, aspect_ratio_bucket_step)
            self._bucket_of = nearest_buckets(sizes_of(source), self._buckets)
            self.order = BucketOrder(self._bucket_of, seed)

    def __len__(self) -> int:
        return len(self.source)

    def squares(self) -> CaptionedImages:
        """Give the same pictures, all as squares: for models of one size."""
        return CaptionedImages(
            self.source,
            self.resolution,
            center_crop=self.center_crop,
            random_flip=self.random_flip,
            seed=self.seed,
        )

    def sample_size(self, index: int) -> tuple[int, int]:
        """Tell width and height of a sample, without reading the image."""
        return (self.resolution, self.resolution) if self.order is None else self._buckets[self._bucket_of[index]]

    @property
    def captions(self) -> list[str]:
        """Every caption of every image, in order: what a tokenizer is trained on."""
        return [
            text for caption in self.source.captions for text in ([caption] if isinstance(caption, str) else caption)
        ]

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
        picture = self._picture(sample_number, index)
        return CaptionedSample(
            pixel_values=to_pixel_values(picture),
            caption=self.caption(sample_number, index),
            index=index,
            sample_number=sample_number,
        )

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
