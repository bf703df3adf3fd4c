"""A sample depends on (seed, sample number, index) and on nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from training.data.captioned_images import CaptionedImages, CaptionedSample
from training.data.digits import DigitsSource
from training.data.image_source import Caption
from training.data.shapes import ShapesSource


class GradientSource:
    """Two wide pictures whose red tells the column and whose green tells the row."""

    def __init__(self, captions: Sequence[Caption] = ("one", "two")) -> None:
        self.captions = captions

    def __len__(self) -> int:
        return 2

    def image(self, index: int) -> Image.Image:
        picture = np.zeros((32, 96, 3), dtype=np.uint8)
        picture[..., 0], picture[..., 1] = np.arange(96)[None], np.arange(32)[:, None]
        picture[..., 2] = index
        return Image.fromarray(picture)

    def name(self, index: int) -> str:
        return f"picture {index}"

    def fingerprint(self) -> str:
        return "two gradients"


def equal(first: CaptionedSample, second: CaptionedSample) -> bool:
    return torch.equal(first["pixel_values"], second["pixel_values"]) and first["caption"] == second["caption"]


def levels(sample: CaptionedSample) -> np.ndarray:
    return ((sample["pixel_values"] + 1) * 127.5).round().to(torch.int64).numpy()


def test_what_a_sample_holds() -> None:
    sample = CaptionedImages(DigitsSource(), 32)[(900, 7)]
    assert set(sample) == {"pixel_values", "caption", "index", "sample_number"}
    assert (sample["caption"], sample["index"], sample["sample_number"]) == ("a handwritten seven", 7, 900)
    assert sample["pixel_values"].dtype == torch.float32
    assert sample["pixel_values"].shape == (3, 32, 32)
    assert (sample["pixel_values"].min(), sample["pixel_values"].max()) == (-1, 1)


def test_a_single_number_is_sample_number_and_index() -> None:
    images = CaptionedImages(GradientSource(), 32, center_crop=False, random_flip=True)
    assert equal(images[1], images[(1, 1)])
    assert images[1]["sample_number"] == 1


def test_a_digit_at_its_own_size_is_unchanged() -> None:
    source = DigitsSource()
    assert np.array_equal(levels(CaptionedImages(source, 32)[5]), np.asarray(source.image(5)).transpose(2, 0, 1))


@pytest.mark.parametrize("resolution", [8, 48, 64])
def test_resolution(resolution: int) -> None:
    assert CaptionedImages(DigitsSource(), resolution)[0]["pixel_values"].shape == (3, resolution, resolution)


def test_samples_are_keyed_by_seed_and_number_whatever_came_before() -> None:
    def images(seed: int) -> CaptionedImages:
        return CaptionedImages(
            GradientSource([["a", "b", "c"]] * 2), 32, center_crop=False, random_flip=True, seed=seed
        )

    forwards = [images(4)[(number, 0)] for number in range(30)]
    again = images(4)
    assert all(equal(again[(number, 0)], forwards[number]) for number in reversed(range(30)))
    assert not all(equal(images(5)[(number, 0)], forwards[number]) for number in range(30))
    assert len({sample["pixel_values"].numpy().tobytes() for sample in forwards}) > 25


def test_random_crops_reach_the_whole_length_and_stay_inside() -> None:
    images = CaptionedImages(GradientSource(), 32, center_crop=False)
    lefts = np.array([levels(images[(number, 0)])[0, 16, 0] for number in range(400)])
    assert lefts.min() <= 2
    assert lefts.max() in (62, 63, 64)
    assert abs(lefts.mean() - 32) < 4
    assert levels(images[(3, 0)])[1, :, 5].tolist() == list(range(32))


def test_center_crop_is_the_middle() -> None:
    assert levels(CaptionedImages(GradientSource(), 32)[0])[0, 0].tolist() == list(range(32, 64))


def test_half_of_the_pictures_are_mirrored() -> None:
    images = CaptionedImages(GradientSource(), 32, random_flip=True)
    rows = [tuple(levels(images[(number, 0)])[0, 0]) for number in range(400)]
    counts = Counter(rows)
    assert set(counts) == {tuple(range(32, 64)), tuple(range(63, 31, -1))}
    assert 150 < counts[tuple(range(32, 64))] < 250


def test_one_of_several_captions_is_drawn() -> None:
    images = CaptionedImages(GradientSource([["a", "b", "c"], "alone"]), 32)
    counts = Counter(images[(number, 0)]["caption"] for number in range(600))
    assert set(counts) == {"a", "b", "c"}
    assert min(counts.values()) > 150
    assert {images[(number, 1)]["caption"] for number in range(20)} == {"alone"}
    assert images.captions == ["a", "b", "c", "alone"]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_same_samples(context: str) -> None:
    images = CaptionedImages(ShapesSource(num_samples=6), 32)
    keys = [(100 + number, number % 6) for number in range(8)]
    loader = DataLoader(
        images,
        batch_size=4,
        sampler=keys,  # type: ignore[arg-type]
        num_workers=1,
        collate_fn=list,
        multiprocessing_context=context,
    )
    read = [sample for batch in loader for sample in batch]
    assert [(sample["sample_number"], sample["index"]) for sample in read] == keys
    assert all(equal(sample, images[key]) for sample, key in zip(read, keys, strict=True))
