"""Inpainting and outpainting as they are measured: real scenes in place of painted ones pass, others do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from sd_pipeline import SDPipeline
from tests.components import tiny_components
from training.data.shapes import render
from training.evaluation import suite_inpaint, suite_outpaint
from training.evaluation.kept_pixels import is_kept
from training.evaluation.suite import Call
from training.evaluation.suite_inpaint import evaluate_inpainting, half_of, relation_scenes
from training.evaluation.suite_outpaint import evaluate_outpainting, seam_step


@pytest.fixture(scope="module")
def pipe() -> SDPipeline:
    return SDPipeline(**tiny_components(), recommended_call={"num_inference_steps": 1})


def test_half_of_a_scene_holds_one_of_its_objects():
    source, numbers = relation_scenes(30, 64, series=5)
    assert [source.scene(number).kind for number in numbers] == ["relation"] * 30
    for number in numbers:
        scene = source.scene(number)
        masks = [np.asarray(half_of(scene, which, 64)) == 255 for which in (0, 1)]
        assert np.array_equal(masks[0], ~masks[1])
        for item, mask in zip(scene.objects, masks, strict=True):
            x, y = (int(64 * place) for place in item.center)
            assert mask[y, x]
            assert mask.mean() == 0.5


def test_real_scenes_in_place_of_painted_ones(pipe, monkeypatch):
    monkeypatch.setattr(suite_inpaint, "generate_images", lambda pipe, prompts, call, given: list(given["image"]))
    report = evaluate_inpainting(pipe, 12, Call())
    assert json.loads(json.dumps(report.results)) == report.results
    rates = {name: rate["count"] for name, rate in report.results["rates"].items()}
    assert rates["passed"] == rates["all kept pixels identical"] == 12
    assert sum(count for name, count in rates.items() if name.startswith("failed")) == 0
    assert "12 scenes of two objects" in report.table
    assert list(report.pictures) == ["shapes-inpaint"]


def test_a_tiny_model_fails_the_scenes_but_keeps_what_it_must(pipe):
    inpainted = evaluate_inpainting(pipe, 3, Call(batch_size=2)).results["rates"]
    assert inpainted["passed"]["count"] == 0
    assert inpainted["all kept pixels identical"]["count"] == 3
    outpainted = evaluate_outpainting(pipe, 3, Call(batch_size=2)).results["rates"]
    assert outpainted["inside identical"]["count"] == 3


def test_real_backgrounds_in_place_of_painted_ones(pipe, monkeypatch):
    def extend(pipe, prompts, call, given, padding):
        widened = []
        for picture in given["image"]:
            canvas = Image.new("RGB", [side + 2 * padding[0] for side in picture.size], picture.getpixel((0, 0)))
            canvas.paste(picture, padding[:2])
            widened.append(canvas)
        return widened

    monkeypatch.setattr(suite_outpaint, "generate_images", extend)
    report = evaluate_outpainting(pipe, 8, Call())
    assert {rate["count"] for rate in report.results["rates"].values()} == {8}
    assert report.results["protocol"]["padding"] == 16


@pytest.mark.parametrize("step", [0, 5, 40])
def test_the_step_across_a_seam_is_that_of_the_background(step):
    picture = np.full((40, 40, 3), 100, dtype=np.uint8)
    picture[10:30, 10:30, 1] += step
    picture[0:14, 18:22] = 250  # An object on the seam.
    assert seam_step(Image.fromarray(picture), 10, 2) == step


def test_one_pixel_that_is_not_kept_is_seen():
    source, (number,) = relation_scenes(1, 32, series=3)
    picture = render(source.scene(number), 32)
    changed = picture.copy()
    changed.putpixel((3, 4), (1, 2, 3))
    everywhere = np.ones((32, 32), dtype=bool)
    assert is_kept(picture, picture.copy(), everywhere)
    assert not is_kept(picture, changed, everywhere)
    everywhere[4, 3] = False
    assert is_kept(picture, changed, everywhere)


@pytest.mark.parametrize("evaluate", [evaluate_inpainting, evaluate_outpainting])
def test_at_least_one_scene(pipe, evaluate):
    with pytest.raises(ValueError, match="--num-prompts 0: allowed: at least 1"):
        evaluate(pipe, 0, Call())
