"""Segmentation of images of any size with the U-Net of 2015."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import nn

from sd_pipeline.models.segmentation_unet import SegmentationUNet
from sd_pipeline.pipelines.call_arguments import check_count, require
from sd_pipeline.pipelines.overlap_tile import OverlapTiling, default_tile_size, overlap_tiling, predict_image
from sd_pipeline.pipelines.segmentation_inputs import read_images, standardise
from sd_pipeline.pipelines.segmentation_loading import SegmentationRepositoryPipeline
from sd_pipeline.pipelines.segmentation_maps import connected_components, most_probable

OUTPUT_TYPES = ("np", "pt")


@dataclass
class SegmentationPipelineOutput(BaseOutput):
    """What a call says of each image; lists in the order of the images, arrays or tensors as `output_type` says.

    Args:
        labels (`list[np.ndarray]` or `list[torch.Tensor]`): Of shape `(height, width)`, uint8 (uint16 from 257 classes
            on): the most probable class of each pixel, the first of equals.
        probabilities (`list[np.ndarray]` or `list[torch.Tensor]`): Of shape `(num_classes, height, width)`, float32,
            in [0, 1]; they add up to 1 over the classes.
        instances (`list[np.ndarray]` or `list[torch.Tensor]`): Of shape `(height, width)`, int32: 0 where the label is
            0, the background; connected components of the other labels are numbered from 1 through all of them.
    """

    labels: list[np.ndarray] | list[torch.Tensor]
    probabilities: list[np.ndarray] | list[torch.Tensor]
    instances: list[np.ndarray] | list[torch.Tensor]


class SegmentationPipeline(SegmentationRepositoryPipeline):
    """Segment images of any size with a [`SegmentationUNet`], tile by tile (Ronneberger et al. 2015, figure 2).

    Tiles change nothing in the result but rounding, unless the network has group normalisation. Of a padded network,
    what the zeros at its border reach is left out too, so an image is given to it with a mirrored margin.

    Args:
        unet ([`SegmentationUNet`]): Class 0 is the background.
        class_names (`list[str]`, *optional*): One for each class.
        image_mean (`float`, *optional*): Subtracted from pixel values, which are in [0, 1]. Without it and
            `image_std`, each image is shifted and scaled to zero mean and unit variance by itself.
        image_std (`float`, *optional*): What they are then divided by, positive.

    Raises:
        ValueError: If the values do not fit; the message names the key, the value and what is allowed.

    Example:
        ```python
        >>> import numpy as np
        >>> from sd_pipeline import SegmentationPipeline, SegmentationUNet
        >>> pipe = SegmentationPipeline(unet=SegmentationUNet(block_out_channels=(8, 16, 32)))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> cells = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
        >>> output = pipe(cells)
        >>> output.labels[0].shape, output.probabilities[0].shape
        ((50, 70), (2, 50, 70))

        ```
    """

    __module__ = "sd_pipeline"
    model_cpu_offload_seq = "unet"  # type: ignore[assignment]

    def __init__(
        self,
        unet: SegmentationUNet,
        class_names: list[str] | None = None,
        image_mean: float | None = None,
        image_std: float | None = None,
    ) -> None:
        super().__init__()
        _check_class_names(class_names, unet.config["num_classes"])
        _check_statistics(image_mean, image_std)
        self.register_modules(unet=unet)
        self.register_to_config(class_names=class_names, image_mean=image_mean, image_std=image_std)

    @torch.no_grad()
    def __call__(
        self,
        images: Any,
        tile_size: int | None = None,
        batch_size: int = 1,
        output_type: str = "np",
        return_dict: bool = True,
    ) -> SegmentationPipelineOutput | tuple:
        """Segment images.

        Beside the images in float32 and the results, memory holds one batch of tiles. All images are read before the
        first is segmented.

        Args:
            images (`PIL.Image.Image`, `np.ndarray`, `str`, `os.PathLike` or a list of them): One image or several, of
                any sizes. Arrays are `(height, width)` or `(height, width, channels)`, uint8, uint16 or floating
                point. Grey, RGB and RGBA become what the network takes; see `segmentation_inputs.read_images`.
            tile_size (`int`, *optional*): Side of the input of the network, in pixels. By default that of the paper,
                which segments 388 pixels (572 with five levels), or less where that covers the image.
            batch_size (`int`, *optional*, defaults to 1): Tiles of an image that the network is given at once.
            output_type (`str`, *optional*, defaults to `"np"`): `"np"` for arrays, `"pt"` for tensors on the CPU.
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return an object, or else a tuple.

        Returns:
            [`SegmentationPipelineOutput`], or the tuple of its `labels`, `probabilities` and `instances`.

        Raises:
            ValueError: If an argument is impossible or an image cannot be used (`segmentation_inputs.read_images`
                lists why), `tile_size` does not fit the network, or the network's output is not finite.
        """
        check_count("batch_size", batch_size)
        require(output_type in OUTPUT_TYPES, "output_type", output_type, f"one of {', '.join(OUTPUT_TYPES)}")
        if tile_size is not None:
            check_count("tile_size", tile_size)
            self.tiling(1, 1, tile_size)
        mean, std = self.config["image_mean"], self.config["image_std"]
        pixel_values = read_images(images, self.unet.config["in_channels"])
        for number in range(len(pixel_values)):  # No name holds on to what it was before.
            pixel_values[number] = standardise(pixel_values[number], mean, std)
        sizes = [(image.shape[-2], image.shape[-1]) for image in pixel_values]
        tilings = [self.tiling(height, width, tile_size) for height, width in sizes]
        total = sum(len(tiling.origins(*size)) for size, tiling in zip(sizes, tilings, strict=True))
        with evaluation_mode(self.unet), self.progress_bar(total=total) as progress_bar:
            probabilities = [
                predict_image(image, self.predict_tiles, tiling, batch_size, progress_bar.update).numpy()
                for image, tiling in zip(pixel_values, tilings, strict=True)
            ]
        labels = [most_probable(of_classes) for of_classes in probabilities]
        results: tuple[list[Any], ...] = (labels, probabilities, [connected_components(image) for image in labels])
        if output_type == "pt":
            results = tuple([torch.from_numpy(array) for array in arrays] for arrays in results)
        return SegmentationPipelineOutput(*results) if return_dict else results

    def tiling(self, height: int, width: int, tile_size: int | None = None) -> OverlapTiling:
        """Choose how an image is cut.

        Args:
            height (`int`): Of the image, in pixels.
            width (`int`): Likewise.
            tile_size (`int`, *optional*): As in a call.

        Returns:
            [`OverlapTiling`]: The tiles.

        Raises:
            ValueError: If `tile_size` does not fit the network.
        """
        num_levels, is_padded = len(self.unet.config["block_out_channels"]), self.unet.config["is_padded"]
        if tile_size is None:
            tile_size = default_tile_size(height, width, num_levels, is_padded)
        return overlap_tiling(tile_size, num_levels, is_padded)

    def predict_tiles(self, tiles: torch.Tensor) -> torch.Tensor:
        """Tell the probabilities of the classes, the soft-max of the network's logits.

        Args:
            tiles (`torch.Tensor` of shape `(batch_size, in_channels, tile_size, tile_size)`): Standardised, float32.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_classes, side, side)`, float32, in [0, 1].

        Raises:
            ValueError: If they are not finite.
        """
        logits = self.unet(tiles.to(self._execution_device, self.unet.dtype)).logits
        probabilities = logits.float().softmax(dim=1)
        if not bool(torch.isfinite(probabilities).all()):
            raise ValueError("`unet` gives logits that are NaN or infinite: its weights are not finite, or overflow")
        return probabilities


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Have no dropout, and no new statistics of normalisation, in the `with` block.

    Args:
        model (`nn.Module`): Each of its modules is afterwards in the mode that it was in.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_class_names(class_names: Any, num_classes: int) -> None:
    fits = isinstance(class_names, (list, tuple)) and all(isinstance(name, str) for name in class_names)
    if class_names is not None and not (fits and len(class_names) == num_classes):
        raise ValueError(f"`class_names` is {class_names!r}; it must be a list of {num_classes} names, one a class")


def _check_statistics(image_mean: Any, image_std: Any) -> None:
    if image_mean is None and image_std is None:
        return
    for name, value in (("image_mean", image_mean), ("image_std", image_std)):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        fits = is_number and (name == "image_mean" or value > 0)
        require(fits, name, value, f"a {'positive' if name == 'image_std' else 'finite'} number, or null as the other")
