"""Bits of images under whole models: sums of their terms, exact or estimated, in latent and in pixel space."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from sd_pipeline import SDPipeline
from sd_pipeline.stock_config import record_facts
from tests.components import tiny_components, tiny_scheduler, tiny_unconditional_unet, tiny_unet, tiny_vae
from training.data.captioned_images import CaptionedImages
from training.data.digits import DigitsSource
from training.evaluation.fitted_likelihood import likelihood_of
from training.evaluation.image_bits import WITH_CAPTION, WITHOUT_CAPTION, BitsOfPipeline
from training.evaluation.pixel_likelihoods import PixelLikelihood
from training.evaluation.suite import Call, Report
from training.evaluation.suite_bits import evaluate_bits

NUM_DIMENSIONS = 3 * 32 * 32
CALL = Call(seed=3, batch_size=3)
FEW_STEPS = {"num_train_timesteps": 20, "beta_start": 0.01, "beta_end": 0.2}


def digits(split: str = "validation") -> CaptionedImages:
    return CaptionedImages(DigitsSource(split), 32)


def pipeline(**components) -> SDPipeline:
    return SDPipeline(**{**tiny_components(), "scheduler": tiny_scheduler(**FEW_STEPS), **components})


def pixel_pipeline() -> SDPipeline:
    unet = tiny_unconditional_unet(in_channels=3, out_channels=3, sample_size=32)
    scheduler = tiny_scheduler(**FEW_STEPS)
    return SDPipeline(vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler)


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate_bits(pipeline(), digits(), digits("train"), 5, CALL)


def test_the_terms_sum_to_the_total_of_every_image(report):
    results = json.loads(json.dumps(report.results))
    for image in results["images"]:
        for condition in (WITH_CAPTION, WITHOUT_CAPTION):
            terms = image[condition]
            expected = image["reconstruction"] + image["posterior"] + image["L_T"] + terms["L_t"] + terms["L_0"]
            assert terms["total"] == pytest.approx(expected, rel=1e-9)
    for condition in (WITH_CAPTION, WITHOUT_CAPTION):
        totals = [image[condition]["total"] for image in results["images"]]
        terms = results["terms_in_nats"][condition]
        assert terms["total"]["mean"] == pytest.approx(np.mean(totals))
        assert terms["total"]["standard_error"] == pytest.approx(np.std(totals, ddof=1) / math.sqrt(5))
        assert terms["rate"]["mean"] + terms["distortion"]["mean"] == pytest.approx(terms["total"]["mean"])
        curve = results["curve_in_nats"][condition]
        assert len(curve) == 20
        assert sum(curve[1:]) == pytest.approx(terms["L_t"]["mean"])
        assert curve[0] == pytest.approx(terms["L_0"]["mean"])
        bits = results["bits_per_dimension"][condition]["mean"]
        assert bits == pytest.approx(terms["total"]["mean"] / math.log(2) / NUM_DIMENSIONS)
    assert [image["caption"] for image in results["images"]] == digits().captions[:5]
    assert results["terms_in_nats"][WITH_CAPTION]["L_t"] != results["terms_in_nats"][WITHOUT_CAPTION]["L_t"]


def test_the_report_tells_its_protocol_and_what_is_beside_it(report):
    protocol = report.results["protocol"]
    assert (protocol["num_images"], protocol["num_dimensions"], protocol["num_timesteps"]) == (5, 3072, "all")
    assert (protocol["variance_type"], protocol["seed"], protocol["space"]) == ("fixed_small", 3, "latents")
    assert {"PNG", "WebP, lossless", "histogram of each pixel"} <= set(report.results["bits_per_dimension"])
    for told in ("5 images of 32x32 pixels", "all 20 timesteps", "fixed_small", "256 training images", "PNG", "L_T"):
        assert told in report.table
    assert report.pictures["bits"].size[0] > 300


def test_another_batch_size_gives_the_same_bits(report):
    again = evaluate_bits(pipeline(), digits(), digits("train"), 5, Call(seed=3, batch_size=5)).results
    for image, other in zip(report.results["images"], again["images"], strict=True):
        assert image[WITH_CAPTION]["total"] == pytest.approx(other[WITH_CAPTION]["total"], rel=1e-5)
    other = evaluate_bits(pipeline(), digits(), digits("train"), 5, Call(seed=4, batch_size=5)).results
    assert other["images"][0][WITH_CAPTION]["L_t"] != again["images"][0][WITH_CAPTION]["L_t"]


def test_drawn_timesteps_estimate_the_same_sum(report):
    drawn = evaluate_bits(pipeline(), digits(), digits("train"), 5, CALL, num_timesteps=160)
    assert drawn.pictures == {}
    for image, estimated in zip(report.results["images"], drawn.results["images"], strict=True):
        for name in ("reconstruction", "posterior", "L_T"):
            assert image[name] == pytest.approx(estimated[name])
        exact, estimate = image[WITH_CAPTION]["L_t"], estimated[WITH_CAPTION]["L_t"]
        # One noise a timestep on one side, 160 draws on the other.
        assert estimate == pytest.approx(exact, rel=0.15)
    assert "160 drawn of 20 timesteps" in drawn.table


def test_in_pixel_space_the_bound_stands_alone():
    results = evaluate_bits(pixel_pipeline(), digits(), digits("train"), 3, CALL).results
    terms = results["terms_in_nats"]
    assert set(terms) == {WITHOUT_CAPTION}
    assert terms[WITHOUT_CAPTION]["reconstruction"] is None
    assert terms[WITHOUT_CAPTION]["distortion"] == terms[WITHOUT_CAPTION]["L_0"]
    assert all(image[WITHOUT_CAPTION]["L_0"] >= 0 for image in results["images"]), "masses of levels, no densities"
    assert (results["protocol"]["space"], results["protocol"]["likelihood"]) == ("pixels", None)


@torch.no_grad()
def test_the_likelihood_is_the_recorded_or_that_of_the_error():
    vae, seen = tiny_vae(), digits("train")
    fitted, origin = likelihood_of(vae, seen, CALL)
    assert origin == "error of 256 training images"
    indices = [index * len(seen) // 256 for index in range(256)]
    pixel_values = torch.stack([seen[index]["pixel_values"] for index in indices])
    posterior = vae.encode(pixel_values).latent_dist
    decoded = vae.decode(posterior.sample([CALL.generator(index) for index in indices])).sample
    assert fitted.std == pytest.approx(float((decoded - pixel_values).square().mean().sqrt()), rel=1e-4)
    record_facts(vae, likelihood="laplace", likelihood_std=0.2)
    assert likelihood_of(vae, seen, CALL)[0] == fitted, "whose masses over the levels are not implemented"
    record_facts(vae, likelihood="gaussian", likelihood_std=0.2)
    assert likelihood_of(vae, seen, CALL) == (PixelLikelihood("gaussian", 0.2), "as it was trained")


def test_binary_cross_entropy_is_told_to_be_no_distribution():
    vae = tiny_vae()
    record_facts(vae, likelihood="bernoulli", prior_mean=[0.0] * 4, prior_std=[1.0] * 4)
    report = evaluate_bits(pipeline(vae=vae), digits(), digits("train"), 2, CALL)
    entropy = report.results["no_distribution"]
    assert entropy["sum_over_levels"] > 10
    assert "which is no code length" in report.table
    assert report.results["protocol"]["likelihood"] == {"kind": "bernoulli", "std": None}
    # By mistake it would be 0.5 bits or so; 8 bits are what a level costs without any knowledge.
    assert report.results["bits_per_dimension"][WITH_CAPTION]["mean"] > entropy["binary_cross_entropy_in_bits"]
    alone = report.results["bits_per_dimension"]["autoencoder with its own prior"]["mean"]
    nats = [image["reconstruction"] + image["divergence"] for image in report.results["images"]]
    assert alone == pytest.approx(np.mean(nats) / math.log(2) / NUM_DIMENSIONS)


def test_what_cannot_be_measured_is_refused():
    seen = digits("train")
    with pytest.raises(ValueError, match="--num-prompts 1: allowed for bits: 2 to 359"):
        evaluate_bits(pipeline(), digits(), seen, 1, CALL)
    with pytest.raises(ValueError, match="--num-timesteps 0: allowed: at least 1"):
        evaluate_bits(pipeline(), digits(), seen, 2, CALL, num_timesteps=0)
    inpainting = pipeline(unet=tiny_unet(in_channels=9))
    with pytest.raises(ValueError, match="the model inpaints"):
        BitsOfPipeline(inpainting, PixelLikelihood("gaussian", 0.1), CALL)
    with pytest.raises(ValueError, match="learned variance goes with"):
        BitsOfPipeline(pipeline(), PixelLikelihood("gaussian", 0.1), CALL, "learned_range")
