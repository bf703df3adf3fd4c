"""Any captioned data set measures a model: sets of images are told apart, and nothing is generated in vain."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sd_pipeline import SDPipeline
from tests.components import tiny_components
from tests.training.evaluation.tiny_clip import PROJECTION_DIM, save_as_run, tiny_clip
from training.data.captioned_images import CaptionedImages
from training.data.digits import DigitsSource
from training.data.image_source import SourceSubset
from training.evaluation import suite_captions
from training.evaluation.image_features import INCEPTION_FILE
from training.evaluation.suite import Call, Report
from training.evaluation.suite_captions import evaluate_captions, set_distances

NUM_PROMPTS = 17
CALL = Call(num_inference_steps=2, guidance_scale=2.0, seed=3, batch_size=9)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> SDPipeline:
    pipe = SDPipeline(**tiny_components())
    pipe.register_to_config(_name_or_path=str(save_as_run(tmp_path_factory.mktemp("run"), tiny_clip())))
    return pipe


@pytest.fixture(scope="module")
def dataset() -> CaptionedImages:
    return CaptionedImages(DigitsSource("validation"), 32)


@pytest.fixture(scope="module")
def report(pipe, dataset, tmp_path_factory) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("without Inception")))
        return evaluate_captions(pipe, dataset, NUM_PROMPTS, CALL)


def test_the_report_names_its_protocol(report):
    results = json.loads(json.dumps(report.results))
    assert results["suite"] == "captions"
    protocol = results["protocol"]
    for name, value in {"scheduler": "SDDDPMScheduler", "num_inference_steps": 2, "guidance_scale": 2.0}.items():
        assert protocol[name] == value
    assert [protocol[f"num_{of}"] for of in ("prompts", "generated_images", "real_images")] == [NUM_PROMPTS] * 3
    assert (protocol["seed"], protocol["width"], protocol["real_resolution"]) == (3, 32, 32)
    of_clip = results["distances"]["clip"]
    assert (of_clip["clip"], of_clip["num_features"]) == ("text_encoder/final/clip", PROJECTION_DIM)
    assert of_clip["resize_filter"] == "Pillow lanczos, antialiased"
    assert results["seconds"]["generation"] >= 0
    for told in ("17 captions", "SDDDPMScheduler, 2 steps", "guidance scale 2", "seed 3", "Pillow lanczos"):
        assert told in report.table


def test_generated_images_are_told_from_real_ones(report):
    """Those of an untrained model are farther from the real ones than these are from each other."""
    of_clip = report.results["distances"]["clip"]
    generated, real = of_clip["half_generated_to_half_real"], of_clip["half_real_to_half_real"]
    assert generated["num_images"] == real["num_images"] == NUM_PROMPTS // 2
    assert of_clip["generated_to_real"]["num_images"] == NUM_PROMPTS
    assert generated["frechet"] > 3 * real["frechet"] > 0
    assert generated["kernel"] > real["kernel"]
    assert real["kernel_standard_error"] > 0
    for score in report.results["clip_score"].values():
        assert 0 <= score["mean"] <= 100
        assert score["standard_error"] > 0


def test_what_lacks_rank_is_marked(report):
    """17 images have a covariance of full rank in 12 features; their halves do not."""
    of_clip = report.results["distances"]["clip"]
    assert [of_clip[name]["rank_deficient"] for name in suite_captions._COMPARISONS] == [False, True, True]
    (line,) = [line for line in report.table.splitlines() if "Frechet" in line]
    assert line.count("*") == 2
    assert "* no more images than features" in report.table


def test_inception_is_left_out_with_its_reason(report):
    reason = report.results["distances"]["inception"]["not_available"]
    assert f"inception: not available ({reason})" in report.table.splitlines()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_inception_has_rows_where_its_file_is(pipe, tmp_path, monkeypatch):
    class Brightness(torch.nn.Module):
        def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
            return images.float().mean([2, 3]) / 255

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.jit.script(Brightness()).save(str(tmp_path / "hub" / "checkpoints" / INCEPTION_FILE))
    dark, light = ([Image.new("RGB", (8, 8), (grey + i,) * 3) for i in range(10)] for grey in (0, 200))
    found = suite_captions._inception_distances(pipe, light, dark, seed=0)
    assert found["num_features"] == 3
    assert found["generated_to_real"]["frechet"] == pytest.approx(3 * (200 / 255) ** 2, rel=1e-3)


def test_the_same_call_measures_the_same(pipe, dataset, report):
    again = evaluate_captions(pipe, dataset, NUM_PROMPTS, CALL).results
    assert again["distances"]["clip"] == report.results["distances"]["clip"]
    assert again["clip_score"] == report.results["clip_score"]


def test_halves_interleave():
    """Of a sorted data set the first half is not the second's like; every other image is."""
    sorted_features = np.repeat(np.arange(4.0), 10)[:, None] + np.random.default_rng(0).normal(size=(40, 2)) * 0.1
    halves = set_distances(sorted_features, sorted_features, seed=0)["half_real_to_half_real"]
    assert halves["num_images"] == 20
    assert halves["frechet"] < 0.02


def test_wrong_input_is_refused_before_anything_is_generated(pipe, dataset, monkeypatch):
    monkeypatch.setattr(suite_captions, "generate_images", lambda *_: pytest.fail("generated"))
    for number in (7, 360):
        with pytest.raises(ValueError, match=f"^--num-prompts {number}: allowed: 8 to 359"):
            evaluate_captions(pipe, dataset, number, CALL)
    few = CaptionedImages(SourceSubset(dataset.source, range(7)), 32)
    with pytest.raises(ValueError, match=r"^--dataset-split: has 7 images; allowed: splits of at least 8"):
        evaluate_captions(pipe, few, 7, CALL)
    with pytest.raises(ValueError, match=r"^--clip /nowhere/at/all: .*allowed: folder or Hub name"):
        evaluate_captions(pipe, dataset, NUM_PROMPTS, CALL, clip="/nowhere/at/all")
    with pytest.raises(ValueError, match=r"^--clip is not given"):
        evaluate_captions(SDPipeline(**tiny_components()), dataset, NUM_PROMPTS, CALL)
