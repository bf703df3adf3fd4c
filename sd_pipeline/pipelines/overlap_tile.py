"""The overlap-tile strategy (Ronneberger et al. 2015, figure 2): images of any size in the memory of one tile.

The image goes on beyond its border as its mirror image. Squares of the output are laid side by side over it; what a
square needs to be seen with, a margin all around, is cut out of the image together with it.

Max-pooling lets the network commute only with shifts by 2^(num_levels - 1) pixels, so squares start at multiples of
that. Whole and tiled inference are then the same function of each pixel, and differ by rounding alone. Group
normalisation is the exception: its statistics are those of a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sd_pipeline.models.segmentation_sizes import input_size, output_size, receptive_field

PAPER_OUTPUT_SIZE = 388
"""Side of the paper's output, of an input of 572 pixels (figure 1)."""


@dataclass(frozen=True)
class OverlapTiling:
    """How an image is cut. All in pixels.

    Args:
        tile_size (`int`): Side of the squares that the network is given.
        output_size (`int`): Side of the square in the middle of a tile whose segmentation is used.
        stride (`int`): Distance of two tiles: `output_size`, rounded down to a multiple of 2^(num_levels - 1).
    """

    tile_size: int
    output_size: int
    stride: int

    @property
    def margin(self) -> int:
        """Width of what surrounds the output in a tile."""
        return (self.tile_size - self.output_size) // 2

    def origins(self, height: int, width: int) -> list[tuple[int, int]]:
        """List where the outputs of the tiles begin that cover an image, row by row.

        Args:
            height (`int`): Of the image, at least 1.
            width (`int`): Likewise.

        Returns:
            `list[tuple[int, int]]`: Row and column of the upper left pixel of each output.
        """
        # The last one begins where its predecessor's output leaves something over.
        ends = (max(1, side - self.output_size + self.stride) for side in (height, width))
        rows, columns = (range(0, end, self.stride) for end in ends)
        return [(row, column) for row in rows for column in columns]


def overlap_tiling(tile_size: int, num_levels: int, is_padded: bool = False) -> OverlapTiling:
    """Work out what a tile of some side segments, and how tiles are laid.

    An unpadded network loses its own margin. A padded one loses nothing, but sees zeros beyond the border of a tile,
    so everything that these can reach is left out: half the receptive field, rounded up to a multiple of
    2^(num_levels - 1). Whole-image inference is then that of the image with so wide a mirrored margin, cut off again.

    Args:
        tile_size (`int`): Side of the input of the network, in pixels: 572 in the paper.
        num_levels (`int`): Resolutions of the network, at least 1.
        is_padded (`bool`, defaults to `False`): Whether its convolutions are padded.

    Returns:
        [`OverlapTiling`]: For `predict_image`.

    Raises:
        ValueError: If the side does not fit the network, or the tile segments too little to be laid beside others.
    """
    used = output_size(tile_size, num_levels, is_padded) - (2 * _unreliable_border(num_levels) if is_padded else 0)
    multiple = 2 ** (num_levels - 1)
    if used < multiple:
        least = default_tile_size(1, 1, num_levels, is_padded)
        raise ValueError(
            f"tile_size is {tile_size}, too small to be laid beside others with {num_levels} levels; "
            f"allowed: {least}, {least + multiple}, {least + 2 * multiple}, ..."
        )
    return OverlapTiling(tile_size, used, used // multiple * multiple)


def default_tile_size(height: int, width: int, num_levels: int, is_padded: bool = False) -> int:
    """Choose the tile for an image: as in the paper, or smaller where one smaller tile covers the image.

    Args:
        height (`int`): Of the image, in pixels, at least 1.
        width (`int`): Likewise.
        num_levels (`int`): Resolutions of the network, at least 1.
        is_padded (`bool`, defaults to `False`): Whether its convolutions are padded.

    Returns:
        `int`: The smallest side of an input that segments 388 pixels, or the longer side of the image.
    """
    least = max(2 ** (num_levels - 1), min(PAPER_OUTPUT_SIZE, max(height, width)))
    return input_size(least + (2 * _unreliable_border(num_levels) if is_padded else 0), num_levels, is_padded)


def mirrored_indices(start: int, length: int, size: int) -> torch.Tensor:
    """Tell which pixels stand at some places of a line that goes on as its own mirror image in both directions.

    The pixel at the border is not repeated, as in `numpy.pad` with `mode="reflect"`: the line has the period
    2 (size - 1). A single pixel repeats itself.

    Args:
        start (`int`): The first place; the line itself begins at 0.
        length (`int`): Number of places.
        size (`int`): Pixels of the line, at least 1.

    Returns:
        `torch.Tensor` of shape `(length,)`, int64, in [0, size).
    """
    period = max(1, 2 * (size - 1))
    places = torch.arange(start, start + length) % period
    return torch.minimum(places, 2 * (size - 1) - places) if size > 1 else places


def cut_tile(image: torch.Tensor, row: int, column: int, tiling: OverlapTiling) -> torch.Tensor:
    """Cut out what the network needs for one square of output.

    Args:
        image (`torch.Tensor` of shape `(channels, height, width)`): Of any size.
        row (`int`): Where the output begins.
        column (`int`): Likewise.
        tiling ([`OverlapTiling`]): The size of tiles.

    Returns:
        `torch.Tensor` of shape `(channels, tile_size, tile_size)`, of the dtype of the image.
    """
    height, width = image.shape[-2:]
    rows = mirrored_indices(row - tiling.margin, tiling.tile_size, height).to(image.device)
    columns = mirrored_indices(column - tiling.margin, tiling.tile_size, width).to(image.device)
    # Both at once: one after the other would copy a stripe of the image.
    return image[:, rows[:, None], columns]


def predict_image(
    image: torch.Tensor,
    predict: Callable[[torch.Tensor], torch.Tensor],
    tiling: OverlapTiling,
    batch_size: int = 1,
    after_batch: Callable[[int], object] = lambda num_tiles: None,
) -> torch.Tensor:
    """Apply a network to an image of any size, tile by tile.

    Beside the image and the result there is never more than one batch of tiles in memory.

    Args:
        image (`torch.Tensor` of shape `(channels, height, width)`): Of any size, at least one pixel.
        predict (callable): Maps tiles `(batch, channels, tile_size, tile_size)` to `(batch, classes, side, side)`,
            with `side` either `output_size` or, for padded networks, `tile_size`, of which the middle is used.
        tiling ([`OverlapTiling`]): See `overlap_tiling`.
        batch_size (`int`, defaults to 1): Tiles that the network is given at once.
        after_batch (callable, *optional*): Told the number of tiles of each batch when it is done.

    Returns:
        `torch.Tensor` of shape `(classes, height, width)`, float32, on the CPU.
    """
    height, width = image.shape[-2:]
    origins = tiling.origins(height, width)
    whole = torch.empty(0)
    for start in range(0, len(origins), batch_size):
        batch = origins[start : start + batch_size]
        outputs = predict(torch.stack([cut_tile(image, row, column, tiling) for row, column in batch])).cpu()
        if start == 0:
            whole = torch.empty(outputs.shape[1], height, width)
        lost, side = (outputs.shape[-1] - tiling.output_size) // 2, tiling.output_size
        for (row, column), output in zip(batch, outputs, strict=True):
            target = whole[:, row : row + side, column : column + side]
            target.copy_(output[:, lost : lost + target.shape[1], lost : lost + target.shape[2]])
        after_batch(len(batch))
    return whole


def _unreliable_border(num_levels: int) -> int:
    """Tell how far zeros beyond the border of a tile reach into a padded network's output, on the grid of shifts."""
    multiple = 2 ** (num_levels - 1)
    return -(-(receptive_field(num_levels) // 2) // multiple) * multiple
