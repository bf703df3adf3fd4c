"""The data set that training reads: pictures as `pixel_values`, with a caption, all chance keyed by sample number."""

from __future__ import annotations

from typing import TypedDict

import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from training.data.image_source import ImageSource
from training.data.image_transforms import crop_and_resize, to_pixel_values
from training.engine.random_streams import sample_rng

SampleKey = tuple[int, int]
"""Global sample number, which keys all chance, and index of the image."""


class CaptionedSample(TypedDict):
    """One sample: `pixel_values` is float32 of shape `(3, resolution, resolution)` in [-1, 1]."""

    pixel_values: torch.Tensor
    caption: str
    index: int
    sample_number: int


class CaptionedImages(Dataset[CaptionedSample]):
    """Pictures of a source, upright, in RGB, cropped to a square and scaled to [-1, 1], each with one caption.

    A sample is a pure function of (seed, global sample number, index): where a random crop lies, whether the picture
    is flipped and which of several captions it has do not depend on the worker, the process or the samples before.

    Args:
        source (`ImageSource`): The images and their captions.
        resolution (`int`): Side of the square pictures, in pixels.
        center_crop (`bool`, defaults to `True`): Crop at the centre; otherwise at a random place.
        random_flip (`bool`, defaults to `False`):
            Mirror every other picture. Captions that speak of left and right, and text in a picture, become false.
        seed (`int`, defaults to 0): The seed of the run.

    Raises:
        DataError: When a picture is read that cannot be decoded.

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
        center_crop: bool = True,
        random_flip: bool = False,
        seed: int = 0,
    ) -> None:
        self.source = source
        self.resolution = resolution
        self.center_crop = center_crop
        self.random_flip = random_flip
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

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
            `CaptionedSample`: `pixel_values` (`torch.Tensor` of shape `(3, resolution, resolution)`, float32, in
            [-1, 1]), `caption`, `index` and `sample_number`.
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
        image = crop_and_resize(image, self.resolution, position)
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
