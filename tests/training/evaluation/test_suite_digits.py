"""Real digits in place of generated ones are recognised as the classifier recognises real digits."""

from __future__ import annotations

import json

import pytest

from sd_pipeline import SDPipeline
from tests.components import tiny_components
from training.data.digits import DigitsSource
from training.evaluation.digit_recognition import held_out_accuracy
from training.evaluation.suite import Call
from training.evaluation.suite_digits import evaluate_digits


class RealDigits(SDPipeline):
    """Looks up a real held-out digit of each caption in place of generating one."""

    def __call__(self, prompt, generator=None, return_dict=True, **call):
        source = DigitsSource("validation")
        choices = {caption: [i for i, other in enumerate(source.captions) if other == caption] for caption in prompt}
        numbers = [g.initial_seed() for g in generator]
        return [source.image(choices[p][n % len(choices[p])]) for p, n in zip(prompt, numbers, strict=True)], None


def test_real_digits():
    report = evaluate_digits(RealDigits(**tiny_components()), 100, Call())
    results = report.results
    assert json.loads(json.dumps(results)) == results
    assert results["protocol"]["num_prompts"] == 100
    assert sum(results["recognised_by_digit"]) == results["recognised"] >= 90
    assert results["recognised_fraction"] == results["recognised"] / 100
    low, high = results["recognised_interval_95"]
    assert 0 < low < results["recognised_fraction"] < high <= 1
    assert results["classifier_accuracy_on_real_held_out"] == held_out_accuracy()
    assert 0 < results["autoencoder_psnr_held_out"] < 20
    assert f"{results['recognised']} of 100" in report.table
    assert "SDDDPMScheduler, 50 steps" in report.table
    assert list(report.pictures) == ["digits"]


@pytest.mark.parametrize("num_prompts", [0, 5, 101, -10])
def test_every_digit_as_often(num_prompts):
    with pytest.raises(ValueError, match=f"--num-prompts {num_prompts}: allowed for digits: multiples of 10"):
        evaluate_digits(SDPipeline(**tiny_components()), num_prompts, Call())
