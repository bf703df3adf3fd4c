"""The models of the truth task that travel with the package, teacher and student, are as good as their cards say."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard

from sd_pipeline import SDPipeline
from sd_pipeline.pretrained_models import DEFAULT_MODEL
from tests.source_files import ROOT
from training.data.shape_scenes import SPLITS
from training.evaluation.suite_shapes import TruthScenes
from training.evaluation.truth import check

STUDENT = "pretrained/shapes-64-student"
BOTH = pytest.mark.parametrize("name", [DEFAULT_MODEL, STUDENT])
PROMPT = "a large red star above a small blue ring on a grey background"
# A series of scenes that neither training nor the score of the card is from.
SERIES = -424_242
# Far below what the card says, as the test has few prompts.
LOWEST_RATE = 0.85


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


def card_of(name: str) -> str:
    return (ROOT / name / "README.md").read_text(encoding="utf-8")


def rates_of(name: str) -> dict[str, float]:
    """The share of captions that come true, of each split."""
    results = ModelCard(card_of(name)).data.eval_results
    return {result.dataset_split: result.metric_value for result in results if result.metric_type == "accuracy"}


@BOTH
def test_its_card_shows_its_score_and_how_to_reproduce_it(name):
    card = card_of(name)
    assert "--suite shapes" in card
    assert rates_of(name).keys() == set(SPLITS)


def test_the_student_needs_few_passes_and_is_nearly_as_good_as_its_teacher():
    recommended = SDPipeline.from_pretrained(STUDENT).config["recommended_call"]
    assert recommended["num_inference_steps"] == 4
    assert recommended["guidance_scale"] == 1
    teacher, student = rates_of(DEFAULT_MODEL), rates_of(STUDENT)
    assert sum(student.values()) >= sum(teacher.values()) - 0.02 * len(SPLITS)


def test_its_card_has_its_bits_with_protocol_and_baselines():
    card = card_of(DEFAULT_MODEL)
    bits = [result for result in ModelCard(card).data.eval_results if result.metric_type == "bits_per_dimension"]
    assert len(bits) == 2
    for told in ("--suite bits", "all 1000 timesteps", "PNG", "WebP, lossless", "histogram of each pixel"):
        assert told in card
    assert all(f"{result.metric_value:.3f} +- " in card for result in bits)


@pytest.mark.slow
@BOTH
def test_fresh_captions_of_every_split_come_true(name):
    num_prompts = 40
    pipe = SDPipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    captions = TruthScenes(num_prompts, 64, SERIES).captions
    images = [image for start in range(0, len(captions), 20) for image in _generate(pipe, captions, start, 20)]
    passed = [check(image, caption).passed for image, caption in zip(images, captions, strict=True)]
    rates = [sum(passed[start : start + num_prompts]) / num_prompts for start in range(0, len(passed), num_prompts)]
    assert min(rates) >= LOWEST_RATE, rates


def _generate(pipe: SDPipeline, captions: list[str], start: int, count: int) -> list:
    return pipe(captions[start : start + count], generator=generators(count)).images


@pytest.mark.slow
def test_the_command_line_draws_with_it_by_default(tmp_path):
    command = [sys.executable, "-m", "sd_pipeline.cli", "generate", "--prompt", PROMPT, "--seed", "0"]
    subprocess.run([*command, "--output", str(tmp_path / "out.png")], check=True, cwd=tmp_path, timeout=120)
    assert (tmp_path / "out.png").stat().st_size > 500
