"""Group normalisation of feature maps whose channels come last, for groups of few channels on a CPU.

torch's kernel for them goes through the channels of a group in its innermost loop. Where these are two to
six, it takes up to three times as long as the operations here, which go through all channels at once.

Shapes: b batch, c channels, h height, w width, l pixels, g groups, d channels of a group.
"""

from __future__ import annotations

import torch
from torch import nn


def channels_last_group_norm(norm: nn.GroupNorm, features_bchw: torch.Tensor) -> torch.Tensor:
    """Normalise each group of channels to mean 0 and variance 1, then scale and shift (Wu and He 2018, eq. 1 to 4).

    Variance is E[x^2] - E[x]^2, as in torch's own kernel for channels that come last.

    Args:
        norm (`torch.nn.GroupNorm`): With weights. Without gradients.
        features_bchw (`torch.Tensor` of shape `(b, c, h, w)`): Float32.

    Returns:
        `torch.Tensor` of the same shape, with channels last in memory.
    """
    batch_size, num_channels, height, width = features_bchw.shape
    features_blc = features_bchw.permute(0, 2, 3, 1).flatten(1, 2)
    groups, group_size = norm.num_groups, features_bchw[0].numel() // norm.num_groups
    squares_blc = features_blc * features_blc
    mean_bg1 = features_blc.sum(1).unflatten(1, (groups, -1)).sum(2, keepdim=True) / group_size
    mean_square_bg1 = squares_blc.sum(1).unflatten(1, (groups, -1)).sum(2, keepdim=True) / group_size
    variance_bg1 = mean_square_bg1 - mean_bg1.square()
    scale_bgd = norm.weight.detach().view(groups, -1) * (variance_bg1 + norm.eps).rsqrt()
    shift_bgd = norm.bias.detach().view(groups, -1) - mean_bg1 * scale_bgd
    rows = (batch_size, 1, num_channels)
    # The squares are needed no more, and their memory is near.
    normed_blc = torch.addcmul(shift_bgd.view(rows), features_blc, scale_bgd.view(rows), out=squares_blc)
    return normed_blc.unflatten(1, (height, width)).permute(0, 3, 1, 2)
