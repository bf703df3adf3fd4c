"""A network that looks at latents through overlapping windows of the size that it was trained on.

Far beyond that size a U-Net repeats and distorts. The mean of its predictions over overlapping windows, taken in every
step of the loop, makes one coherent picture of any size (Bar-Tal et al. 2023, MultiDiffusion, equation 5).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

Predict = Callable[[tuple[slice, slice]], torch.Tensor]
"""Called with rows and columns; returns the prediction for that part of the latents."""


def predict_in_windows(
    predict: Predict, like: torch.Tensor, window: tuple[int, int], wanted: torch.Tensor | None = None
) -> torch.Tensor:
    """Predict for latents that may be larger than a window.

    prediction = sum_i w_i prediction_i / sum_i w_i

    The weight w_i of a window falls linearly from its centre to its edges, so that no edge shows.

    Args:
        predict (`Predict`): The network on a part of the latents.
        like (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Has the shape and dtype of the
            prediction.
        window (`tuple[int, int]`): Height and width of a window, in latents. Neighbours overlap by half.
        wanted (`torch.Tensor` of shape `(..., height, width)`, *optional*): Windows in which it is 0 everywhere are
            left out; the prediction is 0 where no window has been.

    Returns:
        `torch.Tensor` of the shape of `like`.
    """
    height, width = like.shape[-2:]
    rows, columns = window_slices(height, window[0]), window_slices(width, window[1])
    if len(rows) == len(columns) == 1:
        return predict((rows[0], columns[0]))
    # In half precision the sums would be off by a percent, or overflow.
    total, weights = (
        like.new_zeros(like.shape, dtype=torch.float32),
        like.new_zeros(height, width, dtype=torch.float32),
    )
    for place in itertools.product(rows, columns):
        if wanted is not None and not wanted[..., place[0], place[1]].any():
            continue
        weight = _ramp(place[0], weights)[:, None] * _ramp(place[1], weights)
        total[..., place[0], place[1]] += weight * predict(place)
        weights[place] += weight
    return (total / weights.clamp(min=torch.finfo(weights.dtype).tiny)).to(like.dtype)


def window_slices(length: int, window: int) -> list[slice]:
    """Cover a line with windows that overlap by at least half, all of one size, evenly.

    Args:
        length (`int`): Of the line, at least 1.
        window (`int`): Of a window, at least 1.

    Returns:
        `list[slice]`: The windows from left to right; the line itself where it is no longer than a window.
    """
    if length <= window:
        return [slice(0, length)]
    stride = max(window // 2, 1)
    num_windows = -(-(length - window) // stride) + 1
    starts = [round(number * (length - window) / (num_windows - 1)) for number in range(num_windows)]
    return [slice(start, start + window) for start in starts]


def _ramp(part: slice, like: torch.Tensor) -> torch.Tensor:
    distance = torch.arange(part.stop - part.start, device=like.device, dtype=like.dtype) + 0.5
    return torch.minimum(distance, distance.flip(0))
