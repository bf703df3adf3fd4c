"""Painting the surroundings of a hole alone, enlarged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sd_pipeline import SDInpaintPipeline
from sd_pipeline.pipelines.mask_crop import crop_around


def masks(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    found = torch.zeros(len(boxes), 1, 60, 90)
    for mask, (left, top, right, bottom) in zip(found, boxes, strict=True):
        mask[:, top:bottom, left:right] = 1
    return found


def test_the_part_holds_all_holes_and_has_the_proportions_of_the_size():
    crop = crop_around(masks((40, 20, 50, 24), (45, 22, 60, 30)), 4, 32, 32)
    assert (crop.columns, crop.rows) == (slice(36, 64), slice(11, 39))
    wide = crop_around(masks((40, 20, 50, 30)), 0, 16, 32)
    assert (wide.columns.stop - wide.columns.start) == 2 * (wide.rows.stop - wide.rows.start) == 20


def test_the_part_does_not_leave_the_picture():
    crop = crop_around(masks((0, 0, 90, 3)), 50, 32, 32)
    assert (crop.columns, crop.rows) == (slice(0, 90), slice(0, 60))


def test_what_is_put_back_is_what_was_cut_out():
    pictures = torch.rand(2, 3, 60, 90, generator=torch.Generator().manual_seed(0))
    crop = crop_around(masks((40, 20, 50, 24)), 4, 32, 32)
    torch.testing.assert_close(crop.paste(crop.cut(pictures), pictures), pictures)
    pasted = crop.paste(torch.ones(2, 3, 64, 64), pictures)
    torch.testing.assert_close(crop.cut(pasted), torch.ones_like(crop.cut(pasted)))
    outside = torch.ones(60, 90, dtype=torch.bool)
    outside[crop.rows, crop.columns] = False
    assert torch.equal(pasted[..., outside], pictures[..., outside])


@pytest.mark.parametrize("padding", [0, 5, 200])
def test_the_result_has_the_size_of_the_picture_and_keeps_its_pixels(pipe, padding):
    inpaint = SDInpaintPipeline.from_pipe(pipe)
    inpaint.set_progress_bar_config(disable=True)
    levels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    mask = Image.new("L", (90, 60), "black")
    mask.paste("white", (40, 20, 50, 31))
    (image,) = inpaint(
        "a red circle",
        image=Image.fromarray(levels),
        mask_image=mask,
        padding_mask_crop=padding,
        generator=torch.Generator().manual_seed(0),
    ).images
    assert image.size == (90, 60)
    kept = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(image)[kept], levels[kept])
    assert (np.asarray(image)[~kept] != levels[~kept]).mean() > 0.5


@pytest.mark.parametrize("padding", [-1, 2.5, "3", True])
def test_impossible_margins(pipe, padding):
    inpaint = SDInpaintPipeline.from_pipe(pipe)
    picture, mask = Image.new("RGB", (32, 32)), Image.new("L", (32, 32))
    mask.paste(255, (4, 4, 9, 9))
    with pytest.raises(ValueError, match=r"`padding_mask_crop` is .* at least 0"):
        inpaint("a red circle", image=picture, mask_image=mask, padding_mask_crop=padding)
