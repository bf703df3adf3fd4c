"""The sizes that pictures of all shapes are brought to, and which picture goes to which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from tests.training.data.image_folders import write_metadata, write_shapes
from training.data.aspect_ratio_buckets import MAX_ASPECT_RATIO, aspect_ratio_buckets, nearest_buckets, sizes_of
from training.data.captioned_images import CaptionedImages
from training.data.catalogue import load_captioned_images
from training.data.digits import DigitsSource
from training.data.errors import DataError
from training.data.image_folder import ImageFolderSource
from training.data.image_source import SourceSubset
from training.data.shapes import ShapesSource
from training.engine.sampling_order import GlobalBatchSampler, order_of

SIZES = [(60, 30), (30, 60), (40, 40), (50, 40), (300, 20), (21, 20), (45, 30), (30, 45)]


@pytest.mark.parametrize(
    ("resolution", "step"), [(32, 8), (64, 8), (64, 16), (96, 8), (512, 64), (1024, 64), (8, 8), (7, 1)]
)
def test_the_sizes(resolution: int, step: int) -> None:
    sizes = aspect_ratio_buckets(resolution, step)
    assert (resolution, resolution) in sizes
    assert len(set(sizes)) == len(sizes)
    assert {(height, width) for width, height in sizes} == set(sizes)
    ratios = [width / height for width, height in sizes]
    assert ratios == sorted(set(ratios))
    for width, height in sizes:
        assert width % step == height % step == 0
        assert 1 / MAX_ASPECT_RATIO <= width / height <= MAX_ASPECT_RATIO
        assert width * height <= resolution**2
        # One of the sides cannot grow, given the other.
        assert max(width * (height + step), (width + step) * height) > resolution**2
    for width in range(step, MAX_ASPECT_RATIO * resolution, step):
        height = resolution**2 // width // step * step
        is_allowed = height > 0 and max(width, height) <= MAX_ASPECT_RATIO * min(width, height)
        assert ((width, height) in sizes) or not is_allowed


def test_those_of_stable_diffusion_xl() -> None:
    """The sizes that its users know (Podell et al. 2023, appendix I)."""
    assert {(1024, 1024), (1152, 896), (1216, 832), (1344, 768), (896, 1152), (832, 1216), (768, 1344)} <= set(
        aspect_ratio_buckets(1024, 64)
    )


def test_a_step_as_large_as_the_square_leaves_the_square() -> None:
    assert aspect_ratio_buckets(64, 64) == [(64, 64)]
    assert nearest_buckets(SIZES, [(64, 64)]).tolist() == [0] * len(SIZES)


def test_a_picture_goes_to_the_nearest_ratio() -> None:
    sizes = aspect_ratio_buckets(96, 8)
    pictures = [tuple(pair) for pair in np.random.default_rng(0).integers(1, 500, (500, 2)).tolist()]
    chosen = nearest_buckets(pictures, sizes)
    for (width, height), number in zip(pictures, chosen, strict=True):
        distances = [abs(np.log(width / height) - np.log(w / h)) for w, h in sizes]
        assert distances[number] == pytest.approx(min(distances), abs=1e-12)
        # The nearest shape is that which crops the least.
        kept = [min(width * h, height * w) / max(width * h, height * w) for w, h in sizes]
        assert kept[number] == pytest.approx(max(kept), abs=1e-12)
    assert nearest_buckets(sizes, sizes).tolist() == list(range(len(sizes)))
    assert nearest_buckets([], sizes).tolist() == []


def bucketed(folder: Path, **arguments) -> CaptionedImages:
    return CaptionedImages(ImageFolderSource(folder), 32, aspect_ratio_bucket_step=8, **arguments)


def test_sizes_are_those_of_the_pictures(tmp_path: Path) -> None:
    folder = ImageFolderSource(write_shapes(tmp_path, SIZES))
    subset = SourceSubset(folder, [4, 1])
    assert sizes_of(folder) == SIZES
    assert sizes_of(subset) == [SIZES[4], SIZES[1]]
    for source in (folder, subset, DigitsSource(), ShapesSource(num_samples=2, size=24)):
        assert [source.image_size(index) for index in range(2)] == [source.image(index).size for index in range(2)]


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.tiff"])
def test_a_picture_that_exif_turns_is_as_a_person_sees_it(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 30), "red").save(tmp_path / name, exif=exif.tobytes())
    write_metadata(tmp_path, [{"file_name": name, "text": "turned"}])
    images = bucketed(tmp_path)
    assert images.source.image_size(0) == images.source.image(0).size == (30, 60)
    assert images.sample_size(0) == (24, 40)
    assert images[0]["pixel_values"].shape == (3, 40, 24)


@pytest.mark.parametrize("center_crop", [True, False])
def test_pictures_come_in_the_size_of_their_bucket(tmp_path: Path, center_crop: bool) -> None:
    images = bucketed(write_shapes(tmp_path, SIZES), center_crop=center_crop, random_flip=True)
    wide, tall, square = (40, 24), (24, 40), (32, 32)
    expected = [wide, tall, square, square, wide, square, wide, tall]
    assert [images.sample_size(index) for index in range(len(images))] == expected
    for index, (width, height) in enumerate(expected):
        assert images[(index + 90, index)]["pixel_values"].shape == (3, height, width)


def test_squares_are_the_pictures_without_buckets(tmp_path: Path) -> None:
    images = bucketed(write_shapes(tmp_path, SIZES), center_crop=False, random_flip=True, seed=3)
    plain = CaptionedImages(images.source, 32, center_crop=False, random_flip=True, seed=3)
    assert images.squares().order is None
    assert order_of(plain, 0).index(5, 8) == order_of(images.squares(), 0).index(5, 8)
    for index in range(len(images)):
        assert np.array_equal(images.squares()[(77, index)]["pixel_values"], plain[(77, index)]["pixel_values"])


def test_batches_of_a_loader_have_one_shape(tmp_path: Path) -> None:
    images = bucketed(write_shapes(tmp_path, SIZES))
    sampler = GlobalBatchSampler(order_of(images, 0), 3, 2, 1, 2, start_step=5, max_steps=30)
    shapes = [batch["pixel_values"].shape for batch in DataLoader(images, batch_sampler=sampler)]
    assert set(shapes) == {(3, 3, 24, 40), (3, 3, 40, 24), (3, 3, 32, 32)}
    assert shapes[::2] == shapes[1::2]


def test_only_training_pictures_have_buckets(tmp_path: Path) -> None:
    data = {"dataset": str(write_shapes(tmp_path, SIZES)), "resolution": 32, "validation_fraction": 0.3}
    train = load_captioned_images("train", **data, aspect_ratio_bucket_step=8)
    held_out = load_captioned_images("validation", **data, aspect_ratio_bucket_step=8)
    assert len({train.sample_size(index) for index in range(len(train))}) > 1
    assert {tuple(held_out[index]["pixel_values"].shape) for index in range(len(held_out))} == {(3, 32, 32)}


def test_a_header_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_shapes(tmp_path, SIZES)
    (tmp_path / "03.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"03\.png: it is not an image that can be read"):
        bucketed(tmp_path)
