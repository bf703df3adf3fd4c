"""Images that are measured do not depend on how they are batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sd_pipeline import SDPipeline
from tests.components import tiny_components
from training.evaluation.generation import generate_images

PROMPTS = ["a red circle", "a handwritten seven", "two small yellow stars", "a red circle", ""]
CALL = {"num_inference_steps": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def pipe() -> SDPipeline:
    return SDPipeline(**tiny_components())


def test_an_image_belongs_to_its_number(pipe):
    whole = generate_images(pipe, PROMPTS, seed=10, **CALL)
    parts = generate_images(pipe, PROMPTS, seed=10, batch_size=2, **CALL)
    assert len(whole) == len(parts) == 5
    for one, other in zip(whole, parts, strict=True):
        assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1
    assert not np.array_equal(whole[0], whole[3])


def test_it_is_the_call_of_the_pipeline(pipe):
    (image,) = generate_images(pipe, PROMPTS[:1], seed=10, **CALL)
    expected = pipe(PROMPTS[0], generator=torch.Generator().manual_seed(10), **CALL).images[0]
    assert np.array_equal(image, expected)


def test_no_prompts_no_images(pipe):
    assert generate_images(pipe, [], seed=0) == []
