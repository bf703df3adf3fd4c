"""Which of the trained timesteps a shorter sampling run visits (Lin et al. 2024, Table 2), as pure functions.

Every spacing has one signature, `(num_train_timesteps, num_inference_steps, steps_offset) -> timesteps`, and
`TIMESTEP_SPACINGS` names them with the words of diffusers. Timesteps are int64 and descend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def linspace(num_train_timesteps: int, num_inference_steps: int, steps_offset: int = 0) -> np.ndarray:
    """Include both ends, 0 and T - 1, and round what lies between.

    Args:
        num_train_timesteps (`int`): Number of trained steps T.
        num_inference_steps (`int`): Number of steps to take, in [1, T].
        steps_offset (`int`): Not used; every spacing has the same signature.

    Returns:
        `np.ndarray` of shape `(num_inference_steps,)`, int64, descending, in [0, T).
    """
    return np.linspace(0, num_train_timesteps - 1, num_inference_steps).round()[::-1].astype(np.int64)


def leading(num_train_timesteps: int, num_inference_steps: int, steps_offset: int = 0) -> np.ndarray:
    """Take every k-th timestep from `steps_offset` on, k = floor(T / steps); the last ones may be left out.

    Args:
        num_train_timesteps (`int`): Number of trained steps T.
        num_inference_steps (`int`): Number of steps to take, in [1, T].
        steps_offset (`int`): Added to every timestep; 1 for Stable Diffusion.

    Returns:
        `np.ndarray` of shape `(num_inference_steps,)`, int64, descending.
    """
    stride = num_train_timesteps // num_inference_steps
    return np.arange(num_inference_steps, dtype=np.int64)[::-1] * stride + steps_offset


def trailing(num_train_timesteps: int, num_inference_steps: int, steps_offset: int = 0) -> np.ndarray:
    """Step down from T - 1 by T / steps, rounded; pure noise is always visited.

    Args:
        num_train_timesteps (`int`): Number of trained steps T.
        num_inference_steps (`int`): Number of steps to take, in [1, T].
        steps_offset (`int`): Not used; every spacing has the same signature.

    Returns:
        `np.ndarray` of shape `(num_inference_steps,)`, int64, descending, in [0, T).
    """
    steps = np.arange(num_train_timesteps, 0, -num_train_timesteps / num_inference_steps)
    # For some counts (58 of 100 is one) rounding in `arange` appends a value near 0, which would be timestep -1.
    return steps[:num_inference_steps].round().astype(np.int64) - 1


TIMESTEP_SPACINGS: dict[str, Callable[[int, int, int], np.ndarray]] = {
    "linspace": linspace,
    "leading": leading,
    "trailing": trailing,
}


def spaced(num_train_timesteps: int, num_inference_steps: int, spacing: str, steps_offset: int) -> np.ndarray:
    """Choose timesteps by the name of a spacing.

    Args:
        num_train_timesteps (`int`): Number of trained steps T.
        num_inference_steps (`int`): Number of steps to take, in [1, T].
        spacing (`str`): A key of `TIMESTEP_SPACINGS`.
        steps_offset (`int`): Added to the timesteps of `"leading"`.

    Returns:
        `np.ndarray` of shape `(num_inference_steps,)`, int64, descending, in [0, T).

    Raises:
        ValueError: If `num_inference_steps` is not an integer in range, or the offset leads past the last timestep.
    """
    is_integer = isinstance(num_inference_steps, (int, np.integer)) and not isinstance(num_inference_steps, bool)
    if not is_integer or not 1 <= num_inference_steps <= num_train_timesteps:
        allowed = f"an integer from 1 to num_train_timesteps={num_train_timesteps}"
        raise ValueError(f"num_inference_steps={num_inference_steps!r} must be {allowed}.")
    steps = TIMESTEP_SPACINGS[spacing](num_train_timesteps, num_inference_steps, steps_offset)
    if steps[0] >= num_train_timesteps:
        raise ValueError(
            f"num_inference_steps={num_inference_steps} with steps_offset={steps_offset} would start at timestep "
            f"{steps[0]}, past the last trained one, {num_train_timesteps - 1}: take fewer steps."
        )
    return steps


def custom(timesteps: Sequence[int], num_train_timesteps: int) -> np.ndarray:
    """Check timesteps that the caller chose.

    Args:
        timesteps (sequence of `int`): Descending, in [0, num_train_timesteps).
        num_train_timesteps (`int`): Number of trained steps T.

    Returns:
        `np.ndarray`, int64: the same timesteps.

    Raises:
        ValueError: If `timesteps` is empty, does not descend, is out of range or holds something else than integers.
    """
    steps = np.asarray(timesteps)
    if steps.ndim != 1 or len(steps) == 0 or not np.issubdtype(steps.dtype, np.integer):
        raise ValueError(f"timesteps={steps.tolist()!r} must be a list of integers with at least one element.")
    if (steps[1:] >= steps[:-1]).any():
        raise ValueError(f"timesteps={steps.tolist()} must descend.")
    if steps[0] >= num_train_timesteps or steps[-1] < 0:
        raise ValueError(f"timesteps={steps.tolist()} must be from 0 to {num_train_timesteps - 1}.")
    return steps.astype(np.int64)
