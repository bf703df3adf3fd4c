"""How many generated digits a classifier recognises, and how well the autoencoder gives digits back."""

from __future__ import annotations

import time
from typing import Any

from scipy.stats import binomtest

from sd_pipeline import SDPipeline
from training.data.captioned_images import CaptionedImages
from training.data.digits import CANVAS_SIZE, DIGIT_NAMES, DigitsSource, caption_of_digit
from training.evaluation.digit_recognition import beside_real_digits, held_out_accuracy, recognised
from training.evaluation.generation import generate_images
from training.evaluation.reconstruction import psnr_of_autoencoder
from training.evaluation.suite import Call, Report, aligned

_NUM_DIGITS = len(DIGIT_NAMES)


def evaluate_digits(pipe: SDPipeline, num_prompts: int, call: Call) -> Report:
    """Generate every digit equally often, and measure recognition and reconstruction.

    Args:
        pipe (`SDPipeline`): The pipeline, on the device of the process.
        num_prompts (`int`): How many images; a multiple of 10.
        call (`Call`): How to generate.

    Returns:
        `Report`: with the picture `digits`, generated digits beside real ones.

    Raises:
        ValueError: If `num_prompts` is no multiple of 10, or the call is impossible.
    """
    if num_prompts < 1 or num_prompts % _NUM_DIGITS:
        raise ValueError(f"--num-prompts {num_prompts}: allowed for digits: multiples of {_NUM_DIGITS}")
    protocol = {"num_prompts": num_prompts, **call.protocol(pipe)}
    labels = [number * _NUM_DIGITS // num_prompts for number in range(num_prompts)]
    started = time.monotonic()
    images = generate_images(pipe, [caption_of_digit(label) for label in labels], call)
    seconds = time.monotonic() - started
    passed = recognised(images, labels)
    interval = binomtest(int(passed.sum()), num_prompts).proportion_ci(method="wilson")
    held_out = CaptionedImages(DigitsSource("validation"), CANVAS_SIZE)
    results = {
        "suite": "digits",
        "protocol": protocol,
        "recognised": int(passed.sum()),
        "recognised_fraction": float(passed.mean()),
        "recognised_interval_95": [float(interval.low), float(interval.high)],
        "recognised_by_digit": [int(passed[[label == d for label in labels]].sum()) for d in range(_NUM_DIGITS)],
        "classifier_accuracy_on_real_held_out": held_out_accuracy(),
        "autoencoder_psnr_held_out": None if pipe.vae is None else psnr_of_autoencoder(pipe.vae, held_out),
        "seconds": {"generation": round(seconds, 1)},
    }
    return Report(results, _table(results), {"digits": beside_real_digits(images, labels)})


def _table(results: dict[str, Any]) -> str:
    protocol = results["protocol"]
    low, high = results["recognised_interval_95"]
    psnr = results["autoencoder_psnr_held_out"]
    rows = [
        ("digits recognised as asked", f"{results['recognised']} of {protocol['num_prompts']}"),
        ("  95% interval", f"{low:.1%} to {high:.1%}"),
        ("  the classifier on real held-out digits", f"{results['classifier_accuracy_on_real_held_out']:.1%}"),
        ("autoencoder PSNR, held-out images", "no autoencoder" if psnr is None else f"{psnr:.1f} dB"),
        ("sampler", f"{protocol['scheduler']}, {protocol['num_inference_steps']} steps"),
        ("guidance scale", f"{protocol['guidance_scale']}"),
    ]
    return aligned(rows)
