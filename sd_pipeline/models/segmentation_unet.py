"""The U-Net of 2015, for segmentation: the network that the backbone of Stable Diffusion descends from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import nn

from sd_pipeline.models.constructor_checks import check_counts
from sd_pipeline.models.segmentation_sizes import output_size
from sd_pipeline.stock_weights import SafetensorsMixin

NORM_TYPES = ("batch", "group")

SMALL_MAP = 20_480
"""Numbers in a feature map up to which torch has another routine for it, if there is no second one."""

MAX_LEVELS = 12
"""Each doubles the side of the smallest image, which of a stranger's model shall not be beyond all memory."""


@dataclass
class SegmentationUNetOutput(BaseOutput):
    """What the network says of each pixel.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_classes, height, width)`): Of the soft-max over the classes.
    """

    logits: torch.Tensor


class SegmentationUNet(SafetensorsMixin, ModelMixin, ConfigMixin):  # type: ignore[misc]
    r"""The U-Net of Ronneberger, Fischer and Brox (2015), as they printed it.

    A level has two unpadded 3x3 convolutions, each with a ReLU. Going down, 2x2 max-pooling halves the side and the
    channels double; going up, a 2x2 up-convolution doubles the side and halves the channels, and what the contracting
    path had there is cropped to its size and put beside it. A 1x1 convolution maps to the classes. Dropout stands at
    the end of the contracting path. With one input channel, two classes and the defaults there are 31,030,658
    parameters.

    Args:
        in_channels (`int`, *optional*, defaults to 1): Channels of the images.
        num_classes (`int`, *optional*, defaults to 2): Classes of a pixel.
        block_out_channels (`tuple[int]`, *optional*, defaults to `(64, 128, 256, 512, 1024)`):
            Channels of each level, the finest first; at most 12 levels.
        dropout (`float`, *optional*, defaults to 0.5): Probability of a feature to be dropped, in [0, 1).
        is_padded (`bool`, *optional*, defaults to `False`): Pad the convolutions, so that logits have the size of the
            images.
        norm_type (`str`, *optional*): `"batch"` or `"group"` normalisation before each ReLU; none as printed.
        norm_num_groups (`int`, *optional*, defaults to 32): Groups of `"group"`; divides each of the channels.

    Raises:
        ValueError: If a value is impossible; the message names the key, the value and what is allowed.

    Example:
        ```python
        >>> import torch
        >>> from sd_pipeline import SegmentationUNet
        >>> unet = SegmentationUNet(block_out_channels=(8, 16, 32))
        >>> unet(torch.zeros(1, 1, 92, 92)).logits.shape
        torch.Size([1, 2, 52, 52])

        ```
    """

    __module__ = "sd_pipeline"

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        block_out_channels: tuple[int, ...] = (64, 128, 256, 512, 1024),
        dropout: float = 0.5,
        is_padded: bool = False,
        norm_type: str | None = None,
        norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, num_classes=num_classes, norm_num_groups=norm_num_groups)
        _check_blocks(block_out_channels, norm_type, norm_num_groups)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout!r}")
        shared = (int(is_padded), norm_type, norm_num_groups)
        widths = list(block_out_channels)
        self.down_blocks = nn.ModuleList(
            DoubleConvolution(before, width, *shared)
            for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(dropout)
        levels = list(pairwise(widths))[::-1]
        self.upsamplers = nn.ModuleList(UpConvolution(below, width, 2, stride=2) for width, below in levels)
        self.up_blocks = nn.ModuleList(DoubleConvolution(2 * width, width, *shared) for width, _ in levels)
        self.conv_out = nn.Conv2d(widths[0], num_classes, 1)
        self.apply(initialise)

    def forward(
        self, pixel_values: torch.Tensor, return_dict: bool = True
    ) -> SegmentationUNetOutput | tuple[torch.Tensor]:
        """Segment the middle of images, all but a border of `segmentation_sizes.margin` pixels, or all if padded.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, in_channels, height, width)`):
                Floating point. Sides that `segmentation_sizes.input_size` gives fit: 572, 588, ...
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return an output object.

        Returns:
            [`SegmentationUNetOutput`] with `logits`, or the tuple of it.

        Raises:
            ValueError: If a side does not fit.
        """
        num_levels = len(self.down_blocks)
        for side in pixel_values.shape[-2:]:
            output_size(side, num_levels, self.config["is_padded"])
        hidden_states, skipped = pixel_values, []
        for level, block in enumerate(self.down_blocks):
            hidden_states = block(hidden_states if level == 0 else self.pool(hidden_states))
            skipped.append(hidden_states)
        hidden_states = self.drop(skipped.pop())
        for upsampler, block in zip(self.upsamplers, self.up_blocks, strict=True):
            hidden_states = upsampler(hidden_states)
            hidden_states = block(torch.cat([centre_crop(skipped.pop(), hidden_states), hidden_states], dim=1))
        logits = self.conv_out(hidden_states)
        return SegmentationUNetOutput(logits=logits) if return_dict else (logits,)


class DoubleConvolution(nn.Module):
    """Two 3x3 convolutions, each with a ReLU.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of both outputs.
        padding (`int`): Zeros around the input of each; 0 as printed.
        norm_type (`str`, *optional*): Of `NORM_TYPES`, before each ReLU.
        norm_num_groups (`int`): For `"group"`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, padding: int, norm_type: str | None, norm_num_groups: int
    ) -> None:
        super().__init__()
        # A normalisation takes the mean away, and what a bias adds with it.
        bias = norm_type is None
        self.conv1 = Convolution(in_channels, out_channels, 3, padding=padding, bias=bias)
        self.norm1 = _norm(out_channels, norm_type, norm_num_groups)
        self.conv2 = Convolution(out_channels, out_channels, 3, padding=padding, bias=bias)
        self.norm2 = _norm(out_channels, norm_type, norm_num_groups)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(batch_size, in_channels, height, width)` to `(batch_size, out_channels, height - 4, width - 4)`."""
        hidden_states = torch.relu(self.norm1(self.conv1(hidden_states)))
        return torch.relu(self.norm2(self.conv2(hidden_states)))


class Convolution(nn.Conv2d):
    """A convolution that rounds a pixel alike in images of all sizes, so that tiles change nothing.

    On CPUs torch computes a single small feature map by another routine than larger ones or several.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve; see `torch.nn.Conv2d`."""
        return super().forward(_in_company(input))[: len(input)]


class UpConvolution(nn.ConvTranspose2d):
    """An up-convolution that rounds as `Convolution` does."""

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Convolve; see `torch.nn.ConvTranspose2d`."""
        return super().forward(_in_company(input), output_size)[: len(input)]


def _in_company(feature_maps: torch.Tensor) -> torch.Tensor:
    """Give a feature map that is small and alone a second time."""
    is_alone = len(feature_maps) == 1 and feature_maps.numel() <= SMALL_MAP and feature_maps.device.type == "cpu"
    return feature_maps.expand(2, -1, -1, -1) if is_alone else feature_maps


def centre_crop(skipped: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """Cut the middle out of a feature map, in the size of another one.

    Args:
        skipped (`torch.Tensor` of shape `(batch_size, channels, height, width)`): At least as large.
        hidden_states (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Only its size counts.

    Returns:
        `torch.Tensor`: A view, of the height and width of `hidden_states`.
    """
    height, width = hidden_states.shape[-2:]
    top, left = (skipped.shape[-2] - height) // 2, (skipped.shape[-1] - width) // 2
    return skipped[..., top : top + height, left : left + width]


def initialise(module: nn.Module) -> None:
    """Draw the weights of a convolution from a Gaussian of variance 2 / N, N the nodes that feed one neuron.

    With it each feature map has about the second moment of the one before (U-Net note; He et al. 2015). An
    up-convolution of stride 2 feeds each pixel from one, so N is its input channels. Biases begin at 0.

    Args:
        module (`torch.nn.Module`): Changed in place, if it is a convolution.
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        taps = 1 if isinstance(module, nn.ConvTranspose2d) else math.prod(module.kernel_size)
        nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * taps)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _norm(num_channels: int, norm_type: str | None, norm_num_groups: int) -> nn.Module:
    if norm_type is None:
        return nn.Identity()
    return nn.BatchNorm2d(num_channels) if norm_type == "batch" else nn.GroupNorm(norm_num_groups, num_channels)


def _check_blocks(block_out_channels: Sequence[int], norm_type: str | None, norm_num_groups: int) -> None:
    if not block_out_channels:
        raise ValueError("block_out_channels must have at least one level, got none")
    if len(block_out_channels) > MAX_LEVELS:
        raise ValueError(f"block_out_channels must have at most {MAX_LEVELS} levels, got {len(block_out_channels)}")
    if norm_type not in (None, *NORM_TYPES):
        raise ValueError(f"norm_type must be one of {', '.join(NORM_TYPES)} or null, got {norm_type!r}")
    for width in block_out_channels:
        check_counts(block_out_channels=width)
        if norm_type == "group" and width % norm_num_groups:
            raise ValueError(f"block_out_channels must be divisible by norm_num_groups={norm_num_groups}, got {width}")
