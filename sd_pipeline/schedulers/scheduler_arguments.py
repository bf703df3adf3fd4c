"""What the constructor of a scheduler refuses: a wrong choice raises at once, not in the middle of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sd_pipeline.schedulers.noise_schedules import BETA_SCHEDULES
from sd_pipeline.schedulers.timestep_spacing import TIMESTEP_SPACINGS

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "mean")
LEARNED_VARIANCE_TYPES = ("learned", "learned_range")
FIXED_VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
VARIANCE_TYPES = (*FIXED_VARIANCE_TYPES, *LEARNED_VARIANCE_TYPES)

CHOICES = {
    "beta_schedule": tuple(BETA_SCHEDULES),
    # The multistep solvers of diffusers write null, and every scheduler loads the files of the others.
    "variance_type": (*VARIANCE_TYPES, None),
    "prediction_type": PREDICTION_TYPES,
    "timestep_spacing": tuple(TIMESTEP_SPACINGS),
}
SWITCHES = ("clip_sample", "thresholding", "rescale_betas_zero_snr")
# Exclusive lower and upper limits, in words and numbers.
OPEN_RANGES = {
    "beta_start": (0.0, 1.0),
    "beta_end": (0.0, 1.0),
    "clip_sample_range": (0.0, float("inf")),
    "sample_max_value": (0.0, float("inf")),
}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check every argument of `SDDDPMScheduler` by itself, and those that only make sense together.

    Args:
        arguments (`Mapping[str, Any]`): The constructor's arguments by name, all of them.

    Raises:
        ValueError: If a value has the wrong type, is not one of the choices or is out of range. The message names the
            argument, the value and what is allowed.
    """
    for key, allowed in CHOICES.items():
        _require(arguments[key] in allowed, key, arguments[key], f"one of {', '.join(str(name) for name in allowed)}")
    for key in SWITCHES:
        _require(isinstance(arguments[key], bool), key, arguments[key], "true or false")
    for key, (low, high) in OPEN_RANGES.items():
        fits = _is_number(arguments[key]) and low < arguments[key] < high
        _require(fits, key, arguments[key], f"a number greater than {low:g} and less than {high:g}")
    num_steps, offset = arguments["num_train_timesteps"], arguments["steps_offset"]
    _require(_is_integer(num_steps) and num_steps >= 1, "num_train_timesteps", num_steps, "an integer of at least 1")
    _require(_is_integer(offset) and offset >= 0, "steps_offset", offset, "an integer of at least 0")
    ratio = arguments["dynamic_thresholding_ratio"]
    _require(_is_number(ratio) and 0 <= ratio <= 1, "dynamic_thresholding_ratio", ratio, "a number from 0 to 1")
    start, end = arguments["beta_start"], arguments["beta_end"]
    _require(start <= end, "beta_start", start, f"at most beta_end={end}")


def read_trained_betas(trained_betas: Any, num_train_timesteps: int) -> torch.Tensor:
    """Turn `trained_betas` into the variances of the forward process.

    Args:
        trained_betas (`np.ndarray` or `list[float]`): One variance a step in (0, 1); the last may be 1.
        num_train_timesteps (`int`): How many there must be.

    Returns:
        `torch.Tensor` of shape `(num_train_timesteps,)`, float32, in (0, 1].

    Raises:
        ValueError: If these are not `num_train_timesteps` numbers in range.
    """
    if not isinstance(trained_betas, (np.ndarray, list, tuple)):
        kind = type(trained_betas).__name__
        raise ValueError(f"trained_betas is of type {kind}; it must be a list of numbers or a NumPy array.")
    try:
        betas = np.asarray(trained_betas, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("trained_betas holds something that is not a number; it must be a list of numbers.") from None
    if betas.shape != (num_train_timesteps,):
        shape = tuple(betas.shape)
        raise ValueError(
            f"trained_betas has shape {shape}; it must hold num_train_timesteps={num_train_timesteps} numbers."
        )
    outside = ~((betas > 0) & (betas < 1))
    outside[-1] &= betas[-1] != 1
    if outside.any():
        index = int(outside.argmax())
        raise ValueError(
            f"trained_betas[{index}]={betas[index]} must be greater than 0 and less than 1 (the last may be 1)."
        )
    return torch.tensor(betas, dtype=torch.float32)


def check_alphas_cumprod(alphas_cumprod: torch.Tensor) -> None:
    """Check that every step adds noise that float32 can tell, and that only the last may lose the signal altogether.

    Otherwise a step would divide 0 by 0.

    Args:
        alphas_cumprod (`torch.Tensor` of shape `(num_train_timesteps,)`): alpha_bar of every step, float32.

    Raises:
        ValueError: If alpha_bar does not fall at every step, or reaches 0 before the last.
    """
    falls = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod]).diff() < 0
    if not falls.all():
        index = int((~falls).to(torch.uint8).argmax())
        value = float(alphas_cumprod[index])
        vanished = value < torch.finfo(torch.float32).tiny
        reason = "the betas before it are too large" if vanished else "its beta is too small for float32"
        raise ValueError(
            f"alphas_cumprod does not fall at timestep {index} of {len(falls)}, where it is {value:g}: {reason}; "
            "change beta_start, beta_end, trained_betas or num_train_timesteps."
        )


def _require(fits: bool, key: str, value: Any, allowed: str) -> None:
    if not fits:
        raise ValueError(f"{key}={value!r} must be {allowed}.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
