"""A convolutional network applied tile by tile, so that its memory does not grow with the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TileGrid:
    """Overlapping square tiles of the input, and where their outputs go.

    Args:
        input_size (`int`): Side of a tile of the input.
        output_size (`int`): Side of what the network makes of a full tile.
        overlap_factor (`float`): Share of a tile's side that it has in common with the next tile, in [0, 1).
    """

    input_size: int
    output_size: int
    overlap_factor: float

    @property
    def stride(self) -> int:
        """Distance of the starts of two tiles in the input."""
        return int(self.input_size * (1 - self.overlap_factor))

    @property
    def seam(self) -> int:
        """Width, in the output, over which two tiles are blended."""
        return int(self.output_size * self.overlap_factor)

    def fits(self, sample: torch.Tensor) -> bool:
        """Tell whether a tensor is no larger than one tile.

        Args:
            sample (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): The input.

        Returns:
            `bool`: Whether neither height nor width exceeds `input_size`.
        """
        return max(sample.shape[-2:]) <= self.input_size


def apply_tiled(network: Callable[[torch.Tensor], torch.Tensor], sample: torch.Tensor, grid: TileGrid) -> torch.Tensor:
    """Apply a network to overlapping tiles and blend the outputs linearly.

    The result differs from `network(sample)`: normalisation and attention see one tile at a time.

    Args:
        network (callable): Maps `(b, c, input_size, input_size)` to `(b, c', output_size, output_size)`, and smaller
            tiles at the right and lower border in proportion.
        sample (`torch.Tensor` of shape `(b, c, height, width)`): The whole input. Floating point.
        grid (`TileGrid`): The tiles.

    Returns:
        `torch.Tensor` of shape `(b, c', height * output_size / input_size, width * output_size / input_size)`.
    """
    keep = grid.output_size - grid.seam
    rows: list[torch.Tensor] = []
    row_above: list[torch.Tensor] = []
    for top in range(0, sample.shape[-2], grid.stride):
        row: list[torch.Tensor] = []
        for column, left in enumerate(range(0, sample.shape[-1], grid.stride)):
            tile = network(sample[..., top : top + grid.input_size, left : left + grid.input_size])
            if row_above:
                tile = _blend(row_above[column], tile, grid.seam, dim=-2)
            if row:
                tile = _blend(row[-1], tile, grid.seam, dim=-1)
            row.append(tile)
        rows.append(torch.cat([tile[..., :keep, :keep] for tile in row], dim=-1))
        row_above = row
    return torch.cat(rows, dim=-2)


def _blend(previous: torch.Tensor, tile: torch.Tensor, seam: int, dim: int) -> torch.Tensor:
    """Fade linearly from the end of the previous tile to the start of this one along a dimension."""
    seam = min(previous.shape[dim], tile.shape[dim], seam)
    weight = torch.arange(seam, dtype=tile.dtype, device=tile.device) / max(seam, 1)
    weight = weight.unsqueeze(-1) if dim == -2 else weight
    end_of_previous = previous.narrow(dim, previous.shape[dim] - seam, seam)
    start, rest = tile.split([seam, tile.shape[dim] - seam], dim=dim)
    return torch.cat([end_of_previous * (1 - weight) + start * weight, rest], dim=dim)
