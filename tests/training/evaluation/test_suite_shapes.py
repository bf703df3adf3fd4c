"""The suite of the truth task: real pictures score 100%, noise scores none, and prompts are those of no training."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from sd_pipeline import SDPipeline
from tests.components import tiny_components, tiny_unet
from training.data.catalogue import load_captioned_images
from training.data.shape_scenes import SPLITS, split_of
from training.data.shapes import ShapesSource
from training.engine.random_streams import stream_key
from training.evaluation.suite import Call
from training.evaluation.suite_shapes import TruthScenes, evaluate_shapes, series_of_scenes
from training.evaluation.truth_grammar import parse_caption

NUM_PROMPTS = 6
SIDE = 64
AT_64 = {"unet": tiny_unet(sample_size=SIDE // 4)}


class RealScenes(SDPipeline):
    """Draws the scenes of a seed in place of generating, but for the numbers in `blank`."""

    seed = 0
    blank: tuple[int, ...] = ()

    def __call__(self, prompt, generator=None, return_dict=True, **call):
        scenes = TruthScenes(NUM_PROMPTS, SIDE, series_of_scenes(self.seed))
        numbers = [g.initial_seed() - 1_000_000 * self.seed for g in generator]
        assert list(prompt) == [scenes.captions[number] for number in numbers]
        empty = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
        return [empty if number in self.blank else scenes.image(number) for number in numbers], None


def test_real_pictures_pass():
    report = evaluate_shapes(RealScenes(**{**tiny_components(), **AT_64}), NUM_PROMPTS, Call(batch_size=4))
    results = report.results
    assert json.loads(json.dumps(results)) == results
    assert list(results["score"]) == list(results["ceiling"]) == list(SPLITS)
    for split in SPLITS:
        passed = results["score"][split]["passed"]
        assert (passed["count"], passed["total"]) == (NUM_PROMPTS, NUM_PROMPTS)
        ceiling = results["ceiling"][split]["passed"]
        assert (ceiling["count"], ceiling["total"]) == (0, NUM_PROMPTS), "the autoencoder has random weights"
    assert results["failures"] == []
    protocol = results["protocol"]
    assert (protocol["num_prompts"], protocol["width"], protocol["series_of_scenes"]) == (NUM_PROMPTS, SIDE, -1)
    for told in ("6 prompts of each split", "64x64 pixels", "SDDDPMScheduler, 50 steps, guidance scale 7.5, seed 0"):
        assert told in report.table
    assert list(report.pictures) == ["shapes"]


def test_what_fails_is_told():
    """Without an autoencoder, with three pictures that show nothing, and with the prompts of another seed."""
    parts = {**tiny_components(), "vae": None, "unet": tiny_unet(sample_size=SIDE, in_channels=3, out_channels=3)}
    pipe = RealScenes(**parts)
    pipe.seed, pipe.blank = 1, (0, 1, 2 * NUM_PROMPTS)
    results = evaluate_shapes(pipe, NUM_PROMPTS, Call(seed=1)).results
    assert [results["score"][split]["passed"]["count"] for split in SPLITS] == [4, 6, 5]
    assert [failure["image"] for failure in results["failures"]] == [0, 1, 12]
    captions = TruthScenes(NUM_PROMPTS, SIDE, series_of_scenes(1)).captions
    assert captions != TruthScenes(NUM_PROMPTS, SIDE, series_of_scenes(0)).captions
    for failure in results["failures"]:
        assert failure["prompt"] == captions[failure["image"]]
        assert "count" in failure["failed"]
    assert results["ceiling"] is None


def test_scenes_are_those_of_their_splits():
    scenes = TruthScenes(5, SIDE, -1)
    assert len(scenes) == len(scenes.captions) == 15
    found = [split_of(parse_caption(caption)) for caption in scenes.captions]
    assert found == [split for split in SPLITS for _ in range(5)]
    assert scenes.image(7).tobytes() == ShapesSource("caption", 5, SIDE, -1).image(2).tobytes()


def test_prompts_are_of_a_series_that_training_never_draws_from():
    """A run's seed is not negative, as the configuration demands; validation's is named by a hash."""
    evaluation = {series_of_scenes(seed) for seed in range(100)}
    assert len(evaluation) == 100
    assert max(evaluation) < 0 <= min(stream_key(seed, "validation") for seed in range(100))
    for split in ("train", "validation"):
        source = load_captioned_images(split, dataset="shapes", resolution=SIDE, num_samples=20).source
        assert isinstance(source, ShapesSource)
        assert source.seed >= 0
        assert [source.scene(i) for i in range(20)] != [ShapesSource("seen", 20, SIDE, -1).scene(i) for i in range(20)]


@pytest.mark.parametrize(
    ("sample_size", "num_prompts", "message"),
    [
        (16, 0, "--num-prompts 0: allowed: at least 1 of each split"),
        ((16, 8), 3, "a picture of 32x64; allowed: square ones from 32x32"),
        (4, 3, "a picture of 16x16; allowed: square ones from 32x32"),
    ],
)
def test_mistakes_are_found_before_generating(sample_size, num_prompts, message):
    pipe = SDPipeline(**{**tiny_components(), "unet": tiny_unet(sample_size=sample_size)})
    with pytest.raises(ValueError, match=message):
        evaluate_shapes(pipe, num_prompts, Call())
