"""Tiles change nothing: the same probabilities as of the whole mirrored image, in the memory of one tile."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sd_pipeline import SegmentationPipeline, SegmentationUNet
from sd_pipeline.models.segmentation_sizes import input_size, margin
from sd_pipeline.pipelines.overlap_tile import (
    cut_tile,
    default_tile_size,
    mirrored_indices,
    overlap_tiling,
    predict_image,
)
from sd_pipeline.pipelines.segmentation_inputs import read_images, standardise

SIZES = [(1, 1), (1, 17), (7, 3), (61, 47), (20, 83)]


def network(num_levels: int, is_padded: bool = False, **config) -> SegmentationUNet:
    torch.manual_seed(num_levels)
    widths = (4, 6, 8, 8, 8)[:num_levels]
    model = SegmentationUNet(2, 3, widths, is_padded=is_padded, **config).eval().double()
    with torch.no_grad():
        for name, values in model.named_buffers():
            if name.endswith("running_mean"):
                values.normal_()
    return model


def picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(2, height, width, generator=generator, dtype=torch.float64)


@torch.no_grad()
def whole(model: SegmentationUNet, image: torch.Tensor, border: int) -> torch.Tensor:
    """Segment a whole image at once, mirrored by NumPy."""
    num_levels, is_padded = len(model.config["block_out_channels"]), model.config["is_padded"]
    height, width = image.shape[-2:]
    around = [input_size(side + (2 * border if is_padded else 0), num_levels, is_padded) for side in (height, width)]
    pads = [(border, total - border - side) for total, side in zip(around, (height, width), strict=True)]
    mirrored = torch.from_numpy(np.pad(image.numpy(), [(0, 0), *pads], mode="reflect"))
    probabilities = model(mirrored[None]).logits.softmax(1)[0]
    cut = border if is_padded else 0
    return probabilities[:, cut : cut + height, cut : cut + width]


@torch.no_grad()
def tiled(model: SegmentationUNet, image: torch.Tensor, tile_size: int, batch_size: int = 1) -> torch.Tensor:
    tiling = overlap_tiling(tile_size, len(model.config["block_out_channels"]), model.config["is_padded"])
    return predict_image(image, lambda tiles: model(tiles).logits.softmax(1), tiling, batch_size)


def tile_sizes(num_levels: int, is_padded: bool) -> list[int]:
    outputs = {1: (5, 8, 30), 2: (5, 8, 30), 3: (5, 13, 30), 4: (8, 20, 50)}[num_levels]
    return [default_tile_size(output, output, num_levels, is_padded) for output in outputs]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (3, 2), (11, 25), (40, 41)])
def test_indices_are_those_of_numpy(size, before, after):
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    assert mirrored_indices(-before, before + size + after, size).tolist() == expected.tolist()


@pytest.mark.parametrize("num_levels", [1, 2, 3, 4])
@pytest.mark.parametrize("is_padded", [False, True])
def test_tiles_give_what_the_whole_image_gives(num_levels, is_padded):
    model = network(num_levels, is_padded)
    for tile_size in tile_sizes(num_levels, is_padded):
        tiling = overlap_tiling(tile_size, num_levels, is_padded)
        for height, width in SIZES:
            image = picture(height, width)
            expected = whole(model, image, tiling.margin)
            found = tiled(model, image, tile_size, batch_size=4)
            assert found.shape == (3, height, width)
            assert found.dtype == torch.float32
            assert found.sub(expected).abs().max() < 1e-6, (tile_size, height, width)


@pytest.mark.parametrize("is_padded", [False, True])
def test_tiles_of_five_levels(is_padded):
    """The depth of the paper, where outputs of unpadded networks are no multiple of 16 and overlap by 4 pixels."""
    model = network(5, is_padded)
    image = picture(55, 70)
    tile_size = default_tile_size(20, 20, 5, is_padded)
    tiling = overlap_tiling(tile_size, 5, is_padded)
    assert len(tiling.origins(55, 70)) >= 6
    assert tiled(model, image, tile_size).sub(whole(model, image, tiling.margin)).abs().max() < 1e-6


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 45), (39, 1), (9, 21)])
def test_thin_and_small_images_at_the_depth_of_the_paper(height, width, is_padded):
    model = network(5, is_padded)
    image = picture(height, width)
    tile_size = default_tile_size(20, 20, 5, is_padded)
    expected = whole(model, image, overlap_tiling(tile_size, 5, is_padded).margin)
    assert tiled(model, image, tile_size).sub(expected).abs().max() < 1e-6


@pytest.mark.parametrize("is_padded", [False, True])
def test_batch_normalisation_changes_nothing(is_padded):
    model = network(3, is_padded, norm_type="batch")
    image = picture(61, 47)
    tile_size = tile_sizes(3, is_padded)[1]
    expected = whole(model, image, overlap_tiling(tile_size, 3, is_padded).margin)
    assert tiled(model, image, tile_size).sub(expected).abs().max() < 1e-6


def test_tiles_off_the_grid_would_change_the_result():
    """The reason for the grid: max-pooling commutes with shifts by its stride alone."""
    model = network(3)
    image = picture(61, 47)
    expected = whole(model, image, margin(3))
    with torch.no_grad():
        tiling = overlap_tiling(default_tile_size(8, 8, 3), 3)
        one = cut_tile(image, 8, 8, tiling)
        shifted = cut_tile(image, 9, 9, tiling)
        side = tiling.output_size
        on_grid, off_grid = (model(tile[None]).logits.softmax(1)[0] for tile in (one, shifted))
    assert on_grid.sub(expected[:, 8 : 8 + side, 8 : 8 + side]).abs().max() < 1e-6
    assert off_grid.sub(expected[:, 9 : 9 + side, 9 : 9 + side]).abs().max() > 1e-3


@pytest.mark.parametrize("is_padded", [False, True])
def test_tiles_in_single_precision(is_padded):
    model = network(3, is_padded).float()
    image = picture(61, 47).float()
    tile_size = tile_sizes(3, is_padded)[1]
    border = overlap_tiling(tile_size, 3, is_padded).margin
    assert tiled(model, image, tile_size).sub(whole(model, image, border)).abs().max() < 1e-6


@pytest.mark.parametrize("num_levels", [1, 2, 3, 4])
def test_the_margin_of_a_padded_network_is_as_far_as_its_zeros_reach(num_levels):
    """It is no less than gradients reach, and not two steps of the grid more."""
    model = SegmentationUNet(1, 1, (1,) * num_levels, is_padded=True).eval().double()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, float(parameter.dim() > 1))
    model.pool = torch.nn.AvgPool2d(2)  # Whose gradient reaches every pixel that could be the largest.
    multiple = 2 ** (num_levels - 1)
    border = overlap_tiling(default_tile_size(1, 1, num_levels, True), num_levels, True).margin
    side = 4 * border + 2 * multiple
    tile = torch.rand(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    model(tile).logits[..., 2 * border : -2 * border, 2 * border : -2 * border].sum().backward()
    reached = tile.grad[0, 0].nonzero()
    reach = max(2 * border - int(reached.min()), int(reached.max()) + 1 + 2 * border - side)
    assert border - 2 * multiple < reach <= border


def test_the_tile_of_the_paper():
    tiling = overlap_tiling(572, 5)
    assert (tiling.output_size, tiling.margin, tiling.stride) == (388, 92, 384)
    assert default_tile_size(2000, 3000, 5) == 572
    assert default_tile_size(388, 100, 5) == 572
    assert default_tile_size(300, 100, 5) == input_size(300, 5) < 572
    assert default_tile_size(1, 1, 5) == input_size(16, 5)
    padded = overlap_tiling(default_tile_size(2000, 3000, 5, True), 5, True)
    assert padded.margin == 112
    assert padded.output_size == padded.stride >= 388


@pytest.mark.parametrize(("height", "width"), [(388, 388), (389, 388), (772, 773), (1, 2000)])
def test_outputs_cover_the_image(height, width):
    tiling = overlap_tiling(572, 5)
    covered = np.zeros((height, width), dtype=bool)
    for row, column in tiling.origins(height, width):
        assert not covered[row : row + 388, column : column + 388].all()
        covered[row : row + 388, column : column + 388] = True
    assert covered.all()
    assert (len(tiling.origins(height, width)) == 1) == (max(height, width) <= 388)


@pytest.mark.parametrize(
    ("tile_size", "is_padded", "message"),
    [
        (571, False, "a side of 571 pixels does not fit 5 levels; allowed: 188, 204, 220, ...; the next one is 572"),
        (188, False, "tile_size is 188, too small to be laid beside others with 5 levels; allowed: 204, 220, 236"),
        (250, True, "a side of 250 pixels does not fit 5 levels; allowed: 16, 32, 48, ...; the next one is 256"),
        (224, True, "tile_size is 224, too small to be laid beside others with 5 levels; allowed: 240, 256, 272"),
    ],
)
def test_tiles_that_do_not_fit(tile_size, is_padded, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        overlap_tiling(tile_size, 5, is_padded)


def test_batches_are_reported_and_change_nothing():
    model = network(2)
    image = picture(61, 47)
    tiling = overlap_tiling(30, 2)
    num_tiles = len(tiling.origins(61, 47))
    done: list[int] = []
    with torch.no_grad():
        found = predict_image(image, lambda tiles: model(tiles).logits.softmax(1), tiling, 4, done.append)
    assert sum(done) == num_tiles
    assert done[:-1] == [4] * (len(done) - 1)
    assert found.sub(tiled(model, image, 30)).abs().max() < 1e-6


class Storages(TorchDispatchMode):
    """Notes how many bytes everything that an operation returns keeps in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                self.sizes[storage.data_ptr()] = max(self.sizes.get(storage.data_ptr(), 0), storage.nbytes())
        return result


@pytest.mark.parametrize("is_padded", [False, True])
def test_memory_is_that_of_a_tile(is_padded):
    """Nothing is made that is larger than the widest feature map of a tile, but the result."""
    model = network(2, is_padded).float()
    image = picture(1500, 1300).float()
    tile_size = default_tile_size(180, 180, 2, is_padded)
    with Storages() as storages:
        found = tiled(model, image, tile_size)
    feature_map = 8 * tile_size**2 * 4
    result = found.untyped_storage()
    assert feature_map < image.nbytes / 4
    assert storages.sizes.pop(result.data_ptr()) == result.nbytes() == 3 * 1500 * 1300 * 4
    storages.sizes.pop(image.untyped_storage().data_ptr(), None)
    assert max(storages.sizes.values()) <= feature_map


@pytest.mark.parametrize(
    ("block_out_channels", "height", "width"),
    [((16, 32), 62, 125), ((8, 16, 32), 179, 149), ((8, 16, 32, 64), 89, 150), ((4, 8, 16, 16, 16), 70, 193)],
)
def test_float32_rounds_a_pixel_alike_in_tiles_and_in_the_whole_mirrored_image(block_out_channels, height, width):
    """The network itself, given the whole image with its mirrored margin, is the yardstick."""
    torch.manual_seed(height)
    num_levels = len(block_out_channels)
    unet = SegmentationUNet(block_out_channels=block_out_channels).eval()
    pipe = SegmentationPipeline(unet=unet)
    pipe.set_progress_bar_config(disable=True)
    image = np.random.default_rng(width).integers(0, 256, (height, width), dtype=np.uint8)
    lost = margin(num_levels)
    pads = [(lost, input_size(side, num_levels) - side - lost) for side in (height, width)]
    mirrored = np.pad(standardise(read_images(image, 1)[0], None, None)[0].numpy(), pads, mode="reflect")
    with torch.no_grad():
        logits = unet(torch.from_numpy(mirrored)[None, None]).logits
    whole = logits.softmax(dim=1)[0, :, :height, :width].numpy()
    for tile_output in (20, 64):
        tile_size = input_size(tile_output, num_levels)
        for batch_size in (1, 3):
            found = pipe(image, tile_size=tile_size, batch_size=batch_size).probabilities[0]
            np.testing.assert_allclose(found, whole, rtol=0, atol=1e-6)
