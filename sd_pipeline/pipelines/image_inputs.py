"""Images and masks as a call gives them, in whatever form, read as tensors.

An image is never shrunk to suit the autoencoder. What is missing to whole latents is added at the right and lower
edge, and cut off again at the end, so that every pixel stays where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter

from sd_pipeline.images import to_rgb
from sd_pipeline.pipelines.call_arguments import check_image_size, require

_RGB, _GREY, _RGBA = 3, 1, 4
_ALLOWED = (
    "a PIL image, an array of shape (height, width, channels), a tensor of shape (channels, height, width), "
    "a batch of these, or a list of them"
)
_ALLOWED_MASK = (
    "a PIL image, an array of shape (height, width) or a tensor of shape (1, height, width), a batch of these, or a "
    "list of them; white, above half, is repainted"
)


def read_images(image: Any, name: str = "image") -> torch.Tensor:
    """Read the images of a call.

    Args:
        image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): One image or several of one size.
            PIL images of any mode are turned upright and shown on white. Arrays `(..., height, width, channels)` and
            tensors `(..., channels, height, width)` have 1 (grey), 3 or 4 (RGBA) channels; bytes are in [0, 255],
            floating-point values in [0, 1], those of tensors possibly in [-1, 1].
        name (`str`, defaults to `"image"`): The argument, for the message.

    Returns:
        `torch.Tensor` of shape `(num_images, 3, height, width)`, float32, in [0, 1], on the CPU.

    Raises:
        ValueError: If it is something else, sizes differ, or a value is out of range or not finite.
    """
    batch = _stacked([_read_image(one, name) for one in _as_list(image)], name, _ALLOWED)
    if batch.shape[1] == _RGBA:
        color, alpha = batch.split([_RGB, 1], dim=1)
        batch = color * alpha + (1 - alpha)
    return batch.expand(-1, _RGB, -1, -1).contiguous()


def read_masks(mask_image: Any, size: tuple[int, int], name: str = "mask_image") -> torch.Tensor:
    """Read the masks of a call.

    Args:
        mask_image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): One mask or several; at least
            one half, that is white, is repainted, the rest kept.
        size (`tuple[int, int]`): Height and width of the images, in pixels.
        name (`str`, defaults to `"mask_image"`): The argument, for the message.

    Returns:
        `torch.Tensor` of shape `(num_masks, 1, height, width)`, float32, 0 (kept) or 1 (repainted), on the CPU.

    Raises:
        ValueError: If it is something else, of another size than the images, or repaints nothing or everything.
    """
    masks = _stacked([_read_mask(one, name) for one in _as_list(mask_image)], name, _ALLOWED_MASK)
    height, width = masks.shape[-2:]
    shown = f"of {width}x{height} pixels (width x height)"
    require((height, width) == size, name, shown, f"of the size of the image, {size[1]}x{size[0]}")
    return binary_masks(masks, name)


def binary_masks(masks: torch.Tensor, name: str = "mask_image") -> torch.Tensor:
    """Tell white from black.

    Args:
        masks (`torch.Tensor` of shape `(num_masks, 1, height, width)`): In [0, 1], float32.
        name (`str`, defaults to `"mask_image"`): The argument, for the message.

    Returns:
        `torch.Tensor` of the same shape, float32: 1 from one half up, else 0.

    Raises:
        ValueError: If a mask repaints nothing or everything.
    """
    masks = (masks >= 0.5).float()
    for mask in masks:
        require(bool(mask.any()), name, "all black", "white somewhere, where the image is repainted")
        require(not bool(mask.all()), name, "all white", "black somewhere, where the image is kept")
    return masks


def resize_images(images: torch.Tensor, height: int | None, width: int | None) -> torch.Tensor:
    """Resize images if another size is asked for, as diffusers does (Pillow, Lanczos, 8 bits).

    Args:
        images (`torch.Tensor` of shape `(num_images, channels, height, width)`): In [0, 1], float32.
        height (`int`, *optional*): In pixels; by default that of the images.
        width (`int`, *optional*): Likewise.

    Returns:
        `torch.Tensor` of shape `(num_images, channels, height, width)`: float32, in [0, 1].

    Raises:
        ValueError: If height or width is not a positive integer.
    """
    height = images.shape[-2] if height is None else height
    width = images.shape[-1] if width is None else width
    check_image_size(height, width, 1)
    if images.shape[-2:] == (height, width):
        return images
    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pictures = [Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture) for picture in levels]
    resized = [np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS)) for picture in pictures]
    return _channels_first(np.stack(resized).reshape(len(images), height, width, -1))


def pad_to_multiple(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the last column and row until both sides are multiples.

    Args:
        images (`torch.Tensor` of shape `(num_images, channels, height, width)`): Images or masks.
        multiple (`int`): Side of the square of pixels that becomes one latent.

    Returns:
        `torch.Tensor` of shape `(num_images, channels, ceil(height), ceil(width))`, of the same dtype.
    """
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def extend_images(images: torch.Tensor, padding: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay images on a larger canvas, whose margin has their border colours, blurred the more the wider it is.

    Args:
        images (`torch.Tensor` of shape `(num_images, channels, height, width)`): In [0, 1], float32.
        padding (sequence of four `int`): Pixels to add at the left, top, right and bottom, each at least 0.

    Returns:
        `torch.Tensor` of shape `(num_images, channels, top + height + bottom, left + width + right)`, float32, in
        [0, 1], and the margin, of shape `(1, 1, top + height + bottom, left + width + right)`: 1 there, 0 inside.
    """
    left, top, right, bottom = padding
    sides = (left, right, top, bottom)
    carried_on = F.pad(images, sides, mode="replicate")
    margin = F.pad(images.new_zeros(1, 1, *images.shape[-2:]), sides, value=1)
    blurred = gaussian_filter(carried_on.numpy(), sigma=max(padding) / 8, axes=(-2, -1), mode="nearest")
    return torch.where(margin == 1, torch.from_numpy(blurred), carried_on), margin


def one_for_each(values: torch.Tensor, num_prompts: int, num_images_per_prompt: int, name: str) -> torch.Tensor:
    """Give every image of a call its own: one value for all, or one for each prompt, whose images stay side by side.

    Args:
        values (`torch.Tensor` of shape `(num_values, ...)`): Images, masks or latents.
        num_prompts (`int`): At least 1.
        num_images_per_prompt (`int`): At least 1.
        name (`str`): The argument, for the message.

    Returns:
        `torch.Tensor` of shape `(num_prompts * num_images_per_prompt, ...)`, of the same dtype.

    Raises:
        ValueError: If there is neither one nor one for each prompt.
    """
    check_number(name, len(values), num_prompts)
    if len(values) == 1:
        return values.expand(num_prompts * num_images_per_prompt, *values.shape[1:])
    return values.repeat_interleave(num_images_per_prompt, dim=0)


def check_number(name: str, number: int, num_wanted: int, of: str = "prompt") -> None:
    """Check that there is one of something for all prompts, or one for each.

    Args:
        name (`str`): The argument.
        number (`int`): How many there are.
        num_wanted (`int`): How many prompts.
        of (`str`, defaults to `"prompt"`): Or of what else.

    Raises:
        ValueError: If not.
    """
    allowed = "one" if num_wanted == 1 else f"one, or a list of {num_wanted}, one for each {of}"
    require(number in (1, num_wanted), name, f"a list of {number}", allowed)


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _stacked(batches: list[torch.Tensor], name: str, allowed: str) -> torch.Tensor:
    require(bool(batches), name, [], allowed)
    shapes = {tuple(batch.shape[1:]) for batch in batches}
    require(len(shapes) == 1, name, f"of shapes {sorted(shapes)}", "a list of images of one size")
    return torch.cat(batches)


def _read_image(image: Any, name: str) -> torch.Tensor:
    if isinstance(image, Image.Image):
        return _channels_first(_pixels_of(image, name)[None])
    batch = _as_batch(image, name, _ALLOWED)
    channels = batch.shape[1]
    require(
        channels in (_GREY, _RGB, _RGBA), name, f"of shape {tuple(image.shape)}", f"{_ALLOWED}; of 1, 3 or 4 channels"
    )
    is_signed = isinstance(image, torch.Tensor) and channels != _RGBA and bool((batch < 0).any())
    batch = batch / 2 + 0.5 if is_signed else batch
    _check_range(batch, name, "[-1, 1]" if is_signed else "[0, 1]")
    return batch


def _read_mask(mask: Any, name: str) -> torch.Tensor:
    if isinstance(mask, Image.Image):
        grey = Image.fromarray(_pixels_of(mask, name)).convert("L")
        return _channels_first(np.asarray(grey)[None, :, :, None])
    is_flat_batch = getattr(mask, "ndim", 0) == 3 and isinstance(mask, np.ndarray) and mask.shape[-1] != 1
    batch = _as_batch(mask[..., None] if is_flat_batch else mask, name, _ALLOWED_MASK)
    require(batch.shape[1] == 1, name, f"of shape {tuple(mask.shape)}", _ALLOWED_MASK)
    _check_range(batch, name, "[0, 1]")
    return batch


def _pixels_of(image: Image.Image, name: str) -> np.ndarray:
    require(0 not in image.size, name, f"of {image.width}x{image.height} pixels", "of at least 1x1")
    try:
        return np.asarray(to_rgb(image))
    except (ValueError, OSError, SyntaxError) as error:
        raise ValueError(f"`{name}` cannot be read: {str(error).splitlines()[0]}") from error


def _as_batch(value: Any, name: str, allowed: str) -> torch.Tensor:
    """Read an array or tensor of 2 (grey), 3 or 4 dimensions as a batch, channels first."""
    fits = isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim in (2, 3, 4) and 0 not in value.shape
    shown = f"of shape {tuple(value.shape)}" if hasattr(value, "shape") else value
    require(fits, name, shown, allowed)
    is_real = not value.is_complex() if isinstance(value, torch.Tensor) else value.dtype.kind in "biuf"
    require(is_real, name, f"made of {value.dtype}", "made of real numbers")
    if isinstance(value, np.ndarray):
        value = value[..., None] if value.ndim == 2 else value
        return _channels_first(value if value.ndim == 4 else value[None])
    value = value[None] if value.ndim == 2 else value
    value = value if value.ndim == 4 else value[None]
    return _unit_range(value.detach().cpu())


def _channels_first(array: np.ndarray) -> torch.Tensor:
    kind = array.dtype if array.dtype == np.uint8 else np.float32
    return _unit_range(torch.from_numpy(np.array(array.transpose(0, 3, 1, 2), dtype=kind, order="C")))


def _unit_range(values: torch.Tensor) -> torch.Tensor:
    return values.float() / 255 if values.dtype == torch.uint8 else values.float()


def _check_range(values: torch.Tensor, name: str, allowed: str) -> None:
    require(bool(torch.isfinite(values).all()), name, "not finite (NaN or infinity)", f"finite, in {allowed}")
    low, high = float(values.min()), float(values.max())
    fits = low >= 0 and high <= 1
    require(fits, name, f"not in {allowed}", f"in {allowed}; latents and unscaled bytes are no images")
