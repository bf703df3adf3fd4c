"""Images that are measured do not depend on how they are batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sd_pipeline import SDPipeline
from tests.components import tiny_components
from training.evaluation.generation import generate_images
from training.evaluation.spreading import spread
from training.evaluation.suite import Call

PROMPTS = ["a red circle", "a handwritten seven", "two small yellow stars", "a red circle", ""]
CALL = {"num_inference_steps": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def pipe() -> SDPipeline:
    return SDPipeline(**tiny_components())


def test_an_image_belongs_to_its_number(pipe):
    whole = generate_images(pipe, PROMPTS, Call(**CALL, seed=1))
    parts = generate_images(pipe, PROMPTS, Call(**CALL, seed=1, batch_size=2))
    assert len(whole) == len(parts) == 5
    for one, other in zip(whole, parts, strict=True):
        assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1
    assert not np.array_equal(whole[0], whole[3])


def test_it_is_the_call_of_the_pipeline(pipe):
    *_, image = generate_images(pipe, PROMPTS[:2], Call(**CALL, batch_size=1))
    expected = pipe(PROMPTS[1], generator=torch.Generator().manual_seed(1), **CALL).images[0]
    assert np.array_equal(image, expected)


def test_no_prompts_no_images(pipe):
    assert generate_images(pipe, [], Call()) == []


def test_no_noise_is_shared_by_two_seeds():
    first = {Call().generator(number).initial_seed() for number in range(2000)}
    second = {Call(seed=1).generator(number).initial_seed() for number in range(2000)}
    assert first == set(range(2000))
    assert len(second) == 2000
    assert not first & second
    Call(seed=2**32 - 1).generator(999_999)


def test_results_keep_the_order_of_the_items():
    batches = []

    def work(batch):
        batches.append(list(batch))
        return [item**2 for item in batch]

    assert spread(work, range(7), 3, "squaring") == [0, 1, 4, 9, 16, 25, 36]
    assert batches == [[0, 1, 2], [3, 4, 5], [6]]
