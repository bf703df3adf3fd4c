"""How good a model's images are as a set, and how well they go with their captions, on any captioned data set."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from sd_pipeline import SDPipeline
from training.data.captioned_images import CaptionedImages
from training.data.pictures import to_picture
from training.evaluation.clip_judge import load_clip_judge
from training.evaluation.clip_score import clip_scores, clip_text_features
from training.evaluation.contact_sheet import Print, contact_sheet
from training.evaluation.generation import generate_images
from training.evaluation.image_features import (
    INCEPTION_PROTOCOL,
    FeaturesNotAvailableError,
    clip_image_features,
    inception_features,
)
from training.evaluation.set_distance import MIN_IMAGES, frechet_distance, kernel_distance
from training.evaluation.suite import Call, Report, aligned, sampling_line

MIN_PROMPTS = 2 * MIN_IMAGES
_SHOWN = 16
_COMPARISONS = {
    "generated_to_real": "generated, real",
    "half_generated_to_half_real": "half of generated, other half of real",
    "half_real_to_half_real": "half of real, other half",
}
_SCORED = ("generated images", "real images", "generated images with the next caption")


def evaluate_captions(
    pipe: SDPipeline, dataset: CaptionedImages, num_prompts: int, call: Call, clip: str | None = None
) -> Report:
    """Generate from the first captions of a data set, and compare with their real images.

    A distance between sets tells nothing alone. So the same one is measured between two disjoint halves of the real
    images, and, as it depends on their number, between one half of the generated and the other half of the real ones.
    Likewise the CLIP score is measured of the real images, and of generated ones with captions of others.

    Args:
        pipe (`SDPipeline`): The model.
        dataset (`CaptionedImages`): The data set.
        num_prompts (`int`): Images in each set, at least 8.
        call (`Call`): How to generate; its seed also draws the subsets of the kernel distance.
        clip (`str`, *optional*): Folder or Hub name of the CLIP that judges; by default that of the model's own run.

    Returns:
        `Report`: with the picture `captions`, generated images beside real ones.

    Raises:
        ValueError: If there is no such CLIP, or the data set has fewer images.
    """
    protocol = call.protocol(pipe)
    if len(dataset) < MIN_PROMPTS:
        raise ValueError(f"--dataset-split: has {len(dataset)} images; allowed: splits of at least {MIN_PROMPTS}")
    if not MIN_PROMPTS <= num_prompts <= len(dataset):
        raise ValueError(f"--num-prompts {num_prompts}: allowed: {MIN_PROMPTS} to {len(dataset)}, the split's images")
    judge = load_clip_judge(pipe.name_or_path, clip, pipe.device)
    captions, real = _real_images(dataset, num_prompts)
    # Before anything is generated, in case the CLIP does not take them.
    real_features, texts = clip_image_features(judge, real), clip_text_features(judge, captions)
    started = time.monotonic()
    generated = generate_images(pipe, captions, call)
    seconds = time.monotonic() - started
    features = clip_image_features(judge, generated)
    results: dict[str, Any] = {
        "suite": "captions",
        "protocol": protocol | _sets_protocol(dataset, num_prompts),
        "distances": {
            "clip": {"features": "projected, not normalised", **judge.protocol()}
            | set_distances(features, real_features, call.seed),
            "inception": _inception_distances(pipe, generated, real, call.seed),
        },
        "clip_score": {
            "generated": _mean(clip_scores(features, texts)),
            "real": _mean(clip_scores(real_features, texts)),
            "generated_with_captions_of_others": _mean(clip_scores(features, np.roll(texts, -1, axis=0))),
        },
        "seconds": {"generation": round(seconds, 1)},
    }
    return Report(results, _table(results), {"captions": _page(captions, generated, real)})


def _real_images(dataset: CaptionedImages, number: int) -> tuple[list[str], list[Image.Image]]:
    samples = (dataset[index] for index in range(number))
    pairs = [(sample["caption"], to_picture(sample["pixel_values"])) for sample in samples]
    return [caption for caption, _ in pairs], [picture for _, picture in pairs]


def _sets_protocol(dataset: CaptionedImages, number: int) -> dict[str, Any]:
    return {
        "num_prompts": number,
        "num_generated_images": number,
        "num_real_images": number,
        "real_resolution": dataset.resolution,
        "real_resize_filter": "Pillow lanczos, antialiased, cropped to a square",
    }


def set_distances(generated: np.ndarray, real: np.ndarray, seed: int) -> dict[str, Any]:
    """Measure both distances between generated and real images, and what they are to be compared with.

    Halves are every other image, so that a data set that is sorted is cut fairly.

    Args:
        generated (`numpy.ndarray` of shape `(num_images, num_features)`): Features, not normalised.
        real (`numpy.ndarray` of the same shape): Features of the real images of the same captions.
        seed (`int`): Draws the subsets of the kernel distance.

    Returns:
        `dict[str, Any]`: `num_features`, and `generated_to_real`, `half_generated_to_half_real` and
        `half_real_to_half_real`, each with `num_images` (of each set), `frechet`, `rank_deficient` (as many features
        as images or more, so the covariances lack rank), `kernel` and `kernel_standard_error`.
    """
    end = len(real) // 2 * 2
    one, other = slice(0, end, 2), slice(1, end, 2)
    pairs = ((generated, real), (generated[one], real[other]), (real[one], real[other]))
    compared = {name: _compare(*pair, seed) for name, pair in zip(_COMPARISONS, pairs, strict=True)}
    return {"num_features": real.shape[1], **compared}


def _compare(features: np.ndarray, other: np.ndarray, seed: int) -> dict[str, Any]:
    kernel, error = kernel_distance(features, other, seed)
    return {
        "num_images": len(features),
        "frechet": frechet_distance(features, other),
        "rank_deficient": len(features) <= features.shape[1],
        "kernel": kernel,
        "kernel_standard_error": error,
    }


def _inception_distances(
    pipe: SDPipeline, generated: list[Image.Image], real: list[Image.Image], seed: int
) -> dict[str, Any]:
    try:
        of_real = inception_features(real, pipe.device)
    except FeaturesNotAvailableError as error:
        return {"not_available": str(error)}
    return INCEPTION_PROTOCOL | set_distances(inception_features(generated, pipe.device), of_real, seed)


def _mean(scores: np.ndarray) -> dict[str, float]:
    return {"mean": float(scores.mean()), "standard_error": float(scores.std(ddof=1) / np.sqrt(len(scores)))}


def _page(captions: list[str], generated: list[Image.Image], real: list[Image.Image]) -> Image.Image:
    sets = {"generated": generated, "real images of the same captions": real}
    return contact_sheet(
        [
            (title, [Print(*shown) for shown in zip(images[:_SHOWN], captions[:_SHOWN], strict=True)])
            for title, images in sets.items()
        ]
    )


def _table(results: Mapping[str, Any]) -> str:
    protocol, distances = results["protocol"], results["distances"]
    of_clip = distances["clip"]
    rows = [
        ("distance between sets of images", *_COMPARISONS.values()),
        ("images in each set", *(str(of_clip[name]["num_images"]) for name in _COMPARISONS)),
        *_rows_of_distances("CLIP", of_clip),
    ]
    notes = []
    if "not_available" in distances["inception"]:
        notes.append(f"inception: not available ({distances['inception']['not_available']})")
    else:
        rows += _rows_of_distances("Inception", distances["inception"])
    if any("*" in cell for row in rows for cell in row):
        notes.append("* no more images than features: covariances lack rank, the distance is biased upwards")
    scores = [
        (f"CLIP score, {text}", f"{score['mean']:.2f} +- {score['standard_error']:.2f}")
        for text, score in zip(_SCORED, results["clip_score"].values(), strict=True)
    ]
    head = [
        f"{protocol['num_prompts']} captions and their real images of {protocol['real_resolution']} pixels",
        sampling_line(protocol),
        f"CLIP: {of_clip['clip']}, {of_clip['image_size']} pixels, {of_clip['resize_filter']}",
    ]
    return "\n".join([*head, "", aligned(rows), *notes, "", aligned(scores)])


def _rows_of_distances(network: str, found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    compared = [found[name] for name in _COMPARISONS]
    marks = ["*" if one["rank_deficient"] else "" for one in compared]
    name = f"{network}, {found['num_features']} features"
    return [
        (f"{name}: Frechet", *(f"{one['frechet']:.4g}{mark}" for one, mark in zip(compared, marks, strict=True))),
        (f"{name}: kernel", *(f"{one['kernel']:.4g} +- {one['kernel_standard_error']:.2g}" for one in compared)),
    ]
