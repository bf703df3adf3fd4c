"""How many bits an image costs under a whole model: the variational bound, with every term, beside lossless files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from sd_pipeline import SDPipeline
from training.data.captioned_images import CaptionedImages, CaptionedSample
from training.data.pictures import to_picture
from training.evaluation.bits_report import bits_table, curve_picture
from training.evaluation.code_sizes import PixelHistograms, png_bits, webp_bits
from training.evaluation.fitted_likelihood import likelihood_of, no_distribution, spaced
from training.evaluation.image_bits import BitsOfPipeline, ImageBits
from training.evaluation.likelihood import importance_of_timesteps
from training.evaluation.spreading import spread
from training.evaluation.suite import Call, Report

_COUNTED_IMAGES = 2000
_PILOT_IMAGES = 16


def evaluate_bits(
    pipe: SDPipeline,
    dataset: CaptionedImages,
    training_dataset: CaptionedImages,
    num_images: int,
    call: Call,
    num_timesteps: int | None = None,
    variance_type: str | None = None,
) -> Report:
    """Measure the first images of a data set: -ln p(x) is at most the sum of the terms (report eq. 8 and 16).

    Args:
        pipe (`SDPipeline`): The model; in latent or in pixel space, with or without captions.
        dataset (`CaptionedImages`): The images, which training has not seen.
        training_dataset (`CaptionedImages`): What it has seen. Everything that is fitted, is fitted to these: the
            histograms, the deviation of a likelihood that has none, and how timesteps are drawn.
        num_images (`int`): How many.
        call (`Call`): Its seed names all noise; images are measured `batch_size` at a time.
        num_timesteps (`int`, *optional*): Draw so many for each image, those that matter more often; by default every
            timestep is computed.
        variance_type (`str`, *optional*): Of the reverse steps; by default that of the model's scheduler.

    Returns:
        `Report`: with the picture `bits`, the terms by timestep, where all of them were computed.

    Raises:
        ValueError: If there are fewer images, or the model is of another kind.
    """
    if not 2 <= num_images <= len(dataset):
        raise ValueError(f"--num-prompts {num_images}: allowed for bits: 2 to {len(dataset)}, the split's images")
    if num_timesteps is not None and num_timesteps < 1:
        raise ValueError(f"--num-timesteps {num_timesteps}: allowed: at least 1")
    started = time.monotonic()
    likelihood, origin = (None, None) if pipe.vae is None else likelihood_of(pipe.vae, training_dataset, call)
    model = BitsOfPipeline(pipe, likelihood, call, variance_type)
    probabilities = None if num_timesteps is None else _importance(model, training_dataset, call.batch_size)

    def measure(samples: Sequence[int]) -> list[ImageBits]:
        return model.measure([dataset[index] for index in samples], probabilities, num_timesteps or 0)

    images = spread(measure, range(num_images), call.batch_size, "bits")
    num_dimensions = dataset[0]["pixel_values"].numel()
    results: dict[str, Any] = {
        "suite": "bits",
        "protocol": {
            "num_images": num_images,
            "num_dimensions": num_dimensions,
            "width": dataset.resolution,
            "height": dataset.resolution,
            "space": "pixels" if likelihood is None else "latents",
            "num_timesteps": num_timesteps or "all",
            "num_train_timesteps": len(model.bound.scheduler),
            "variance_type": model.bound.scheduler.config["variance_type"],
            "likelihood": None if likelihood is None else {"kind": likelihood.kind, "std": likelihood.std},
            "likelihood_origin": origin,
            "seed": call.seed,
            "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        },
        "bits_per_dimension": {
            **_of_model(images, model.conditions, num_dimensions),
            **_of_files(dataset, training_dataset, num_images),
        },
        "no_distribution": no_distribution(pipe.vae, dataset, likelihood, call),
        "terms_in_nats": {condition: _terms(images, condition) for condition in model.conditions},
        "curve_in_nats": {
            c: np.mean([image.curves[c] for image in images], axis=0).tolist() for c in images[0].curves
        },
        "images": [_row(dataset[number], image, model.conditions) for number, image in enumerate(images)],
        "seconds": {"bits": round(time.monotonic() - started, 1)},
    }
    pictures = {"bits": curve_picture(results["curve_in_nats"])} if results["curve_in_nats"] else {}
    return Report(results, bits_table(results), pictures)


def _importance(model: BitsOfPipeline, training_dataset: CaptionedImages, batch_size: int) -> torch.Tensor:
    """Choose how timesteps are drawn, after what a few training images show at all of them."""

    def measure(indices: Sequence[int]) -> list[ImageBits]:
        return model.measure([training_dataset[index] for index in indices])

    pilots = spread(measure, spaced(len(training_dataset), _PILOT_IMAGES), batch_size, "pilot")
    curves = np.stack([image.curves[condition] for image in pilots for condition in model.conditions])
    moments = torch.from_numpy(np.square(curves).mean(0))
    # The first term is computed for every image, and may be a negative density.
    probabilities = torch.cat([torch.zeros(1, dtype=torch.float64), importance_of_timesteps(moments[1:])])
    return probabilities


def _of_model(images: Sequence[ImageBits], conditions: Sequence[str], num_dimensions: int) -> dict[str, Any]:
    found = {c: _mean([image.total(c) / math.log(2) / num_dimensions for image in images]) for c in conditions}
    terms = [(image.reconstruction, image.divergence) for image in images]
    alone = [first + rest for first, rest in terms if first is not None and rest is not None]
    if alone:
        found["autoencoder with its own prior"] = _mean([nats / math.log(2) / num_dimensions for nats in alone])
    return found


def _of_files(dataset: CaptionedImages, training_dataset: CaptionedImages, num_images: int) -> dict[str, Any]:
    """Measure the same images as files, and under histograms of training images."""
    counted = spaced(len(training_dataset), _COUNTED_IMAGES)
    histograms = PixelHistograms(np.asarray(to_picture(training_dataset[index]["pixel_values"])) for index in counted)
    coders: dict[str, Callable[[Image.Image], float]] = {
        "PNG": png_bits,
        "WebP, lossless": webp_bits,
        "histogram of each pixel": lambda picture: histograms.bits(np.asarray(picture)),
    }
    pictures = [to_picture(dataset[index]["pixel_values"]) for index in range(num_images)]
    sizes = {name: [bits(picture) / np.asarray(picture).size for picture in pictures] for name, bits in coders.items()}
    return {name: _mean(bits) for name, bits in sizes.items()}


def _terms(images: Sequence[ImageBits], condition: str) -> dict[str, Any]:
    """Average every term of the sum over the images, in nats; those that there are not are null."""
    named: dict[str, Sequence[float | None]] = {
        "total": [image.total(condition) for image in images],
        "distortion": [image.distortion(condition) for image in images],
        "rate": [image.rate(condition) for image in images],
        "reconstruction": [image.reconstruction for image in images],
        "posterior": [image.posterior for image in images],
        "L_T": [image.prior for image in images],
        "L_t": [image.steps[condition] for image in images],
        "L_0": [image.decoder[condition] for image in images],
    }
    present = {name: [one for one in values if one is not None] for name, values in named.items()}
    return {name: _mean(values) if values else None for name, values in present.items()}


def _mean(values: Sequence[float]) -> dict[str, float]:
    """Give the mean over images, and its standard error."""
    return {"mean": float(np.mean(values)), "standard_error": float(np.std(values, ddof=1) / math.sqrt(len(values)))}


def _row(sample: CaptionedSample, image: ImageBits, conditions: Sequence[str]) -> dict[str, Any]:
    """Write the terms of one image, in nats, as JSON holds them."""
    shared = {name: getattr(image, name) for name in ("reconstruction", "posterior", "divergence")}
    told = {c: {"L_0": image.decoder[c], "L_t": image.steps[c], "total": image.total(c)} for c in conditions}
    return {"index": sample["index"], "caption": sample["caption"], **shared, "L_T": image.prior, **told}
