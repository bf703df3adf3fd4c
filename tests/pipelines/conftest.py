"""One tiny model for all tests of pipelines, here and as diffusers loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from sd_pipeline import SDPipeline
from tests.components import tiny_components


def quiet(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """Switch a pipeline's progress bar off."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe = SDPipeline(**tiny_components(), recommended_call={"num_inference_steps": 3, "guidance_scale": 4.0})
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(repository) -> tuple[SDPipeline, StableDiffusionPipeline]:
    return SDPipeline.from_pretrained(repository), StableDiffusionPipeline.from_pretrained(repository)


@pytest.fixture
def pipe(loaded) -> SDPipeline:
    """The model as it is loaded here. Tests may exchange components, but not change them."""
    return quiet(SDPipeline.from_pipe(loaded[0]))


@pytest.fixture
def stock_pipe(loaded) -> StableDiffusionPipeline:
    """The model as diffusers loads it, under the same condition."""
    return quiet(StableDiffusionPipeline(**loaded[1].components, requires_safety_checker=False))
