from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sd_pipeline.models.tiling import TileGrid, apply_tiled


@pytest.mark.parametrize("size", [(8, 8), (20, 20), (13, 29)])
def test_pointwise_network_is_unchanged(size):
    sample = torch.randn(2, 3, *size)
    tiled = apply_tiled(torch.sin, sample, TileGrid(8, 8, 0.25))
    torch.testing.assert_close(tiled, torch.sin(sample))


def test_network_that_doubles_the_resolution():
    sample = torch.randn(1, 2, 10, 14)
    tiled = apply_tiled(lambda x: F.interpolate(x, scale_factor=2.0), sample, TileGrid(4, 8, 0.25))
    torch.testing.assert_close(tiled, F.interpolate(sample, scale_factor=2.0))


def test_seams_fade():
    """Tiles that disagree are joined by a linear ramp, not by a step."""
    values = iter([0.0, 1.0, 1.0])
    tiled = apply_tiled(lambda x: torch.full_like(x, next(values)), torch.zeros(1, 1, 4, 12), TileGrid(8, 8, 0.5))
    expected = torch.tensor([0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1]).expand(1, 1, 4, 12)
    torch.testing.assert_close(tiled, expected)


def test_fits():
    grid = TileGrid(8, 4, 0.25)
    assert grid.fits(torch.zeros(1, 1, 8, 3))
    assert not grid.fits(torch.zeros(1, 1, 9, 3))
