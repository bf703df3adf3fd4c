from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from sd_pipeline.images import to_rgb
from sd_pipeline.pipelines.image_inputs import (
    check_number,
    extend_images,
    one_for_each,
    pad_to_multiple,
    read_images,
    read_masks,
    resize_images,
)
from tests.pictures import as_picture, generator, hole, levels, picture

BYTES = levels(20, 12)
UNIT = torch.from_numpy(BYTES.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(BYTES),
        BYTES,
        BYTES[None],
        BYTES.astype(np.float32) / 255,
        (BYTES.astype(np.float32) / 255).astype(">f4"),
        np.asfortranarray(BYTES),
        BYTES[::-1][::-1],
        torch.from_numpy(BYTES).permute(2, 0, 1),
        UNIT,
        UNIT[0],
        UNIT.double(),
        UNIT.clone().requires_grad_(),
        [UNIT],
        (Image.fromarray(BYTES),),
    ],
    ids=lambda image: type(image).__name__,
)
def test_all_forms_of_an_image_read_alike(image):
    read = read_images(image)
    assert (read.dtype, read.shape) == (torch.float32, (1, 3, 12, 20))
    assert not read.requires_grad
    torch.testing.assert_close(read, UNIT, rtol=0, atol=1e-7)
    assert torch.equal((read * 255).round(), (UNIT * 255).round())


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "EXIF"])
def test_pictures_are_read_as_they_are_seen(mode):
    image = picture(20, 12, mode)
    expected = np.asarray(to_rgb(image))
    assert expected.shape == (12, 20, 3)
    assert np.array_equal((read_images(image)[0] * 255).round().permute(1, 2, 0).numpy(), expected)


def test_grey_and_transparent_arrays():
    grey = torch.rand(12, 20, generator=generator())
    for form in (grey, grey[None], grey[None, None], grey.numpy(), grey.numpy()[..., None]):
        assert torch.equal(read_images(form), grey.expand(1, 3, 12, 20))
    rgba = torch.rand(4, 12, 20, generator=generator())
    expected = rgba[:3] * rgba[3] + 1 - rgba[3]
    torch.testing.assert_close(read_images(rgba)[0], expected)
    torch.testing.assert_close(read_images(rgba.permute(1, 2, 0).numpy())[0], expected)


def test_tensors_of_the_range_of_diffusers():
    torch.testing.assert_close(read_images(UNIT * 2 - 1), UNIT)


def test_lists_and_batches():
    other = picture(20, 12, seed=1)
    read = read_images([Image.fromarray(BYTES), other])
    assert read.shape == (2, 3, 12, 20)
    assert torch.equal(read, read_images([UNIT, read_images(other)]))
    assert torch.equal(read, read_images(np.stack([BYTES, np.asarray(other)])))


def test_arrays_of_the_caller_are_neither_changed_nor_kept():
    array = BYTES.astype(np.float32) / 255
    read = read_images(array)
    read.zero_()
    assert array.any()
    array.setflags(write=False)
    mask = hole(20, 12, 2, 2, 9, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_images([array, Image.fromarray(BYTES[..., 0])])
        read_masks(as_picture(mask), (12, 20))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "`image` is None; it must be a PIL image"),
        ("x.png", "`image` is 'x.png'"),
        (7, "`image` is 7"),
        ([], r"`image` is \[\]"),
        ([[picture()]], "`image` is"),
        ([picture(), None], "`image` is None"),
        (np.zeros((8, 8, 5)), r"`image` is 'of shape \(8, 8, 5\)'.*1, 3 or 4"),
        (np.zeros((8, 8, 2)), r"`image` is 'of shape \(8, 8, 2\)'"),
        (np.zeros((3, 8, 8)), r"`image` is 'of shape \(3, 8, 8\)'"),
        (torch.zeros(8, 8, 3), r"`image` is 'of shape \(8, 8, 3\)'"),
        (np.zeros((0, 8, 3)), r"`image` is 'of shape \(0, 8, 3\)'"),
        (torch.zeros(0, 3, 8, 8), r"`image` is 'of shape \(0, 3, 8, 8\)'"),
        (np.zeros((1, 1, 8, 8, 3)), "`image` is 'of shape"),
        (np.zeros(8), "`image` is 'of shape"),
        (Image.new("RGB", (0, 5)), "`image` is 'of 0x5 pixels'"),
        (np.array([["a", "b"]]), "`image` is 'made of <U1'; it must be made of real numbers"),
        (np.array([[None, 1]]), "`image` is 'made of object'"),
        (np.zeros((8, 8), complex), "`image` is 'made of complex128'"),
        (torch.zeros(3, 8, 8, dtype=torch.complex64), "`image` is 'made of torch.complex64'"),
        (np.full((8, 8, 3), np.nan), "`image` is 'not finite"),
        (torch.full((3, 8, 8), float("inf")), "`image` is 'not finite"),
        (np.full((8, 8, 3), 1.01), r"`image` is 'not in \[0, 1\]'"),
        (np.full((8, 8, 3), -0.01), r"`image` is 'not in \[0, 1\]'"),
        (np.full((8, 8, 3), 200), r"`image` is 'not in \[0, 1\]'.*unscaled bytes"),
        (np.full((8, 8), 60000, np.uint16), r"`image` is 'not in \[0, 1\]'"),
        (torch.full((3, 8, 8), -1.01), r"`image` is 'not in \[-1, 1\]'"),
        (torch.randn(1, 4, 8, 8), r"`image` is 'not in \[0, 1\]'.*latents"),
        (Image.fromarray(np.full((8, 8), -3, np.int32)), "`image` cannot be read: grey values from -3"),
        ([picture(), picture(30, 32)], "`image` is 'of shapes .*a list of images of one size"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_no_image_is_refused_in_one_line(image, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_images(image)
    assert "\n" not in str(raised.value)


def test_truncated_file_is_refused_in_one_line(tmp_path):
    picture().save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    with pytest.raises(ValueError, match="`image` cannot be read"):
        read_images(Image.open(tmp_path / "half.png"))


MASK = hole(20, 12, 2, 3, 9, 10)


@pytest.mark.parametrize(
    "mask",
    [
        as_picture(MASK),
        as_picture(MASK).convert("RGB"),
        as_picture(MASK).convert("1"),
        MASK,
        MASK * 0.5,
        MASK[..., None],
        MASK[None],
        MASK > 0,
        MASK.astype(int),
        (MASK * 255).astype(np.uint8),
        torch.from_numpy(MASK),
        torch.from_numpy(MASK)[None],
        torch.from_numpy(MASK)[None, None],
        torch.from_numpy(MASK).bool(),
        [as_picture(MASK)],
    ],
    ids=lambda mask: type(mask).__name__,
)
def test_all_forms_of_a_mask_read_alike(mask):
    assert torch.equal(read_masks(mask, (12, 20)), torch.from_numpy(MASK)[None, None])


def test_several_masks():
    masks = np.stack([MASK, 1 - MASK])
    for form in (masks, masks[..., None], list(masks), torch.from_numpy(masks)[:, None], [*map(as_picture, masks)]):
        assert torch.equal(read_masks(form, (12, 20)), torch.from_numpy(masks)[:, None])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "`mask_image` is None"),
        (MASK * 0, "`mask_image` is 'all black'; it must be white somewhere"),
        (MASK * 0 + 1, "`mask_image` is 'all white'; it must be black somewhere"),
        ([MASK, MASK * 0], "`mask_image` is 'all black'"),
        (MASK * 0.49, "`mask_image` is 'all black'"),
        (MASK[1:], "`mask_image` is 'of 20x11 pixels .*'; it must be of the size of the image, 20x12"),
        (MASK.T, "`mask_image` is 'of 12x20 pixels"),
        (np.repeat(MASK[..., None], 3, axis=2), "`mask_image` is 'of"),
        (torch.from_numpy(np.stack([MASK] * 3)), r"`mask_image` is 'of shape \(3, 12, 20\)'"),
        (MASK * 255, r"`mask_image` is 'not in \[0, 1\]'"),
        (MASK * np.nan, "`mask_image` is 'not finite"),
        (Image.new("L", (0, 0)), "`mask_image` is 'of 0x0 pixels'"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_no_mask_is_refused_in_one_line(mask, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_masks(mask, (12, 20))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("height", "width"), [(None, None), (12, None), (None, 20), (12, 20)])
def test_images_of_the_size_that_is_asked_for_are_not_touched(height, width):
    assert resize_images(UNIT, height, width) is UNIT


def test_images_are_resized_as_pillow_does_it():
    image = Image.fromarray(BYTES)
    expected = read_images(image.resize((7, 30), Image.Resampling.LANCZOS))
    assert torch.equal(resize_images(UNIT, 30, 7), expected)
    mask = torch.from_numpy(MASK)[None, None]
    assert resize_images(mask, 30, None).shape == (1, 1, 30, 20)


@pytest.mark.parametrize("size", [0, -1, 32.0, "32", True])
def test_size_that_is_none_is_refused(size):
    for sides in ((size, None), (None, size)):
        with pytest.raises(ValueError, match="it must be a positive"):
            resize_images(UNIT, *sides)


@pytest.mark.parametrize(("multiple", "size"), [(1, (12, 20)), (4, (12, 20)), (8, (16, 24)), (32, (32, 32))])
def test_padding_repeats_the_border_at_the_right_and_lower_edge(multiple, size):
    padded = pad_to_multiple(UNIT, multiple)
    assert padded.shape == (1, 3, *size)
    assert torch.equal(padded[..., :12, :20], UNIT)
    assert torch.equal(padded[..., 12:, :20], UNIT[..., -1:, :].expand(1, 3, size[0] - 12, 20))
    assert torch.equal(padded[..., 20:], padded[..., 19:20].expand(1, 3, size[0], size[1] - 20))


@pytest.mark.parametrize("padding", [(5, 0, 0, 0), (0, 7, 13, 3), (0, 0, 150, 0), (1, 1, 1, 1)])
def test_extension_keeps_the_inside_and_continues_the_border(padding):
    left, top, right, bottom = padding
    extended, margin = extend_images(UNIT, padding)
    height, width = top + 12 + bottom, left + 20 + right
    assert (extended.shape, margin.shape) == ((1, 3, height, width), (1, 1, height, width))
    inside = (..., slice(top, top + 12), slice(left, left + 20))
    assert torch.equal(extended[inside], UNIT)
    assert not margin[inside].any()
    assert margin.sum() == height * width - 12 * 20
    assert extended.min() >= 0
    assert extended.max() <= 1
    flat, _ = extend_images(torch.full((2, 3, 4, 5), 0.3), padding)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.3))


def test_one_for_all_or_one_for_each():
    one, two = torch.rand(1, 3, 2, 2), torch.rand(2, 3, 2, 2)
    assert torch.equal(one_for_each(one, 2, 3, "image"), one.repeat(6, 1, 1, 1))
    each = one_for_each(two, 2, 3, "image")
    assert torch.equal(each, two[[0, 0, 0, 1, 1, 1]])
    with pytest.raises(ValueError, match="`image` is 'a list of 2'; it must be one, or a list of 3"):
        one_for_each(two, 3, 1, "image")
    with pytest.raises(ValueError, match=r"`image` is 'a list of 2'; it must be one$"):
        check_number("image", 2, 1)
