"""What a call of a pipeline refuses, before any work: one line for each mistake.

Every function checks one kind of argument, raises a `ValueError` that names the argument, its value and what is
allowed, and returns nothing unless it says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

STOCK_CALL: dict[str, int | float] = {
    "num_inference_steps": 50,
    "guidance_scale": 7.5,
    "guidance_rescale": 0.0,
    "eta": 0.0,
}
"""The arguments that a model may recommend, with what diffusers takes where nothing is said."""


def require(fits: bool, name: str, value: object, allowed: str) -> None:
    """Raise unless the value fits.

    Args:
        fits (`bool`): Whether it does.
        name (`str`): The argument.
        value (`object`): Its value.
        allowed (`str`): What the value has to be.

    Raises:
        ValueError: If it does not fit.
    """
    if not fits:
        shown = repr(value)
        raise ValueError(f"`{name}` is {shown if len(shown) <= 100 else type(value).__name__}; it must be {allowed}")


def check_count(name: str, value: Any) -> None:
    """Check a number of things.

    Args:
        name (`str`): The argument.
        value (`int`): At least 1.

    Raises:
        ValueError: If it is something else.
    """
    require(_is_count(value), name, value, "an integer of at least 1")


def check_clip_skip(clip_skip: Any, num_layers: int | None) -> None:
    """Check how many of the text encoder's last layers are to be left out.

    Args:
        clip_skip (`int`, *optional*): At least 0.
        num_layers (`int`, *optional*): Layers of the text encoder, if there is one.

    Raises:
        ValueError: If it is something else.
    """
    if num_layers is None:
        require(clip_skip is None, "clip_skip", clip_skip, "left out: the model has no text encoder")
        return
    fits = clip_skip is None or (isinstance(clip_skip, int) and 0 <= clip_skip <= num_layers)
    require(fits, "clip_skip", clip_skip, f"an integer from 0 to {num_layers}")


def check_numbers(num_inference_steps: Any, guidance_scale: Any, guidance_rescale: Any, eta: Any) -> None:
    """Check the numbers of a call, or of a recommended one.

    Args:
        num_inference_steps (`int`): At least 1.
        guidance_scale (`float`): Finite.
        guidance_rescale (`float`): In [0, 1].
        eta (`float`): In [0, 1].

    Raises:
        ValueError: If one of them is something else.
    """
    check_count("num_inference_steps", num_inference_steps)
    is_finite = _is_number(guidance_scale) and math.isfinite(guidance_scale)
    require(is_finite, "guidance_scale", guidance_scale, "a finite number")
    for name, value in (("guidance_rescale", guidance_rescale), ("eta", eta)):
        require(_is_number(value) and 0 <= value <= 1, name, value, "a number from 0 to 1")


def check_recommended_call(recommended_call: Mapping[str, Any]) -> None:
    """Check what a repository, or the maker of a pipeline, recommends.

    Args:
        recommended_call (`Mapping[str, Any]`): Some of the keys of `STOCK_CALL`.

    Raises:
        ValueError: If a key is unknown or a value impossible.
    """
    require(isinstance(recommended_call, Mapping), "recommended_call", recommended_call, "a mapping")
    unknown = sorted(set(recommended_call) - set(STOCK_CALL))
    require(not unknown, "recommended_call", unknown, f"made of {', '.join(STOCK_CALL)} only")
    check_numbers(**{**STOCK_CALL, **recommended_call})


def check_strength(strength: Any) -> None:
    """Check how much of an image is to be changed.

    Args:
        strength (`float`): In [0, 1].

    Raises:
        ValueError: If it is something else.
    """
    require(_is_number(strength) and 0 <= strength <= 1, "strength", strength, "a number from 0 to 1")


def check_padding(padding: Any) -> None:
    """Check by how much an image is to be extended.

    Args:
        padding (sequence of four `int`): At the left, top, right and bottom, in pixels; one of them at least above 0.

    Raises:
        ValueError: If it is something else.
    """
    fits = isinstance(padding, (list, tuple)) and len(padding) == 4
    fits = fits and all(_is_integer(side) and side >= 0 for side in padding)
    allowed = "(left, top, right, bottom) in pixels: four integers of at least 0, not all 0"
    require(fits and any(padding), "padding", padding, allowed)


def check_margin(padding_mask_crop: Any) -> None:
    """Check how much of the surroundings of a hole is to be painted with it.

    Args:
        padding_mask_crop (`int`, *optional*): In pixels, at least 0.

    Raises:
        ValueError: If it is something else.
    """
    fits = padding_mask_crop is None or (_is_integer(padding_mask_crop) and padding_mask_crop >= 0)
    require(fits, "padding_mask_crop", padding_mask_crop, "an integer of at least 0, in pixels")


def check_image_size(height: Any, width: Any, multiple: int) -> None:
    """Check the size of the images.

    Args:
        height (`int`): In pixels.
        width (`int`): In pixels.
        multiple (`int`): Side of the square of pixels that becomes one latent.

    Raises:
        ValueError: If one of them is not a positive multiple.
    """
    for name, value in (("height", height), ("width", width)):
        fits = _is_count(value) and value % multiple == 0
        require(fits, name, value, f"a positive multiple of {multiple}")


def check_tensor(name: str, tensor: Any, shape: Sequence[int | None]) -> None:
    """Check a tensor that the user supplies.

    Args:
        name (`str`): The argument.
        tensor (`torch.Tensor`): Its value.
        shape (sequence of `int` or `None`): Its shape; `None` stands for any size of at least 1.

    Raises:
        ValueError: If it is not a tensor of finite floating-point numbers of this shape.
    """
    require(isinstance(tensor, torch.Tensor) and tensor.is_floating_point(), name, tensor, "a floating-point tensor")
    fits = tensor.ndim == len(shape) and all(
        (size >= 1 if wanted is None else size == wanted) for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    wanted_shape = ", ".join("any" if wanted is None else str(wanted) for wanted in shape)
    require(fits, name, f"of shape {tuple(tensor.shape)}", f"of shape ({wanted_shape})")
    require(bool(torch.isfinite(tensor).all()), name, "not finite (NaN or infinity)", "finite")


def check_generator(generator: Any, batch_size: int) -> None:
    """Check where the noise comes from.

    Args:
        generator (`torch.Generator` or a list of them, *optional*): One for all images, or one for each.
        batch_size (`int`): How many images.

    Raises:
        ValueError: If it is something else, or a list of another length.
    """
    if isinstance(generator, (list, tuple)):
        fits = len(generator) == batch_size
        require(
            fits, "generator", f"a list of {len(generator)}", f"one, or a list of {batch_size}, one for each image"
        )
    generators = generator if isinstance(generator, (list, tuple)) else [generator]
    fits = generator is None or all(isinstance(one, torch.Generator) for one in generators)
    require(fits, "generator", generator, "a torch.Generator or a list of them")


def check_options(
    output_type: Any, cross_attention_kwargs: Any, callback: Any, callback_tensors: Any, allowed_tensors: Sequence[str]
) -> None:
    """Check what comes out, at the end and at each step, and what goes into the attention.

    Args:
        output_type (`str`): One of `OUTPUT_TYPES`.
        cross_attention_kwargs (`dict[str, Any]`, *optional*): As in a call.
        callback (callable, *optional*): Called at each step.
        callback_tensors (`list[str]`): What it asks for.
        allowed_tensors (sequence of `str`): What it may ask for.

    Raises:
        ValueError: If something else is asked for.
    """
    require(output_type in OUTPUT_TYPES, "output_type", output_type, f"one of {', '.join(OUTPUT_TYPES)}")
    is_mapping = cross_attention_kwargs is None or isinstance(cross_attention_kwargs, dict)
    require(is_mapping, "cross_attention_kwargs", cross_attention_kwargs, "a dict")
    require(callback is None or callable(callback), "callback_on_step_end", callback, "callable")
    fits = isinstance(callback_tensors, (list, tuple)) and all(name in allowed_tensors for name in callback_tensors)
    allowed = f"a list of some of {', '.join(allowed_tensors)}"
    require(fits, "callback_on_step_end_tensor_inputs", callback_tensors, allowed)


def _is_count(value: Any) -> bool:
    return _is_integer(value) and bool(value >= 1)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
