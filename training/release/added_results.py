"""Putting what `evaluate_model.py` has measured into the card of a finished model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from sd_pipeline.publishing.model_card import without_local_paths
from training.data.shape_scenes import SPLITS
from training.release.training_data import hub_dataset

NOTHING_MEASURED = "Nothing has been measured yet."
_OF_SEGMENTATIONS = {
    "mean_iou": "intersection over union, mean over classes and images",
    "pixel_error": "share of pixels of another class",
    "seg": "SEG of the Cell Tracking Challenge",
    "merged_neighbours": "share of pairs of touching objects that are found as one",
    "ap_50": "average precision TP / (TP + FP + FN) of objects at IoU 0.5",
    "rand_error": "1 - foreground-restricted Rand F-score",
    "warping_error": "warping error",
}
_RESULTS = re.compile(r"^## Results\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def check_card(card: str) -> str:
    """Return a card that results can be put into.

    Args:
        card (`str`): Markdown.

    Raises:
        ValueError: If it has no front matter, or no section "Results".
    """
    if not card.startswith("---\n") or card.count("---\n") < 2 or _RESULTS.search(card) is None:
        raise ValueError("--card: the README.md of the model is no card of a finished run: it has no section Results")
    return card


def with_results(card: str, results: Mapping[str, Any], table: str, command: str) -> str:
    """Put the results of a suite into a card, in the place of older ones of this suite; what else is there stays.

    Args:
        card (`str`): The card, Markdown with YAML front matter and a section "Results".
        results (`Mapping[str, Any]`): What the suite measured, as JSON holds it.
        table (`str`): The same for a person, with protocol and intervals.
        command (`str`): That measured it.

    Returns:
        `str`: The card.

    Raises:
        ValueError: As `check_card`.
    """
    _, front_matter, body = check_card(card).split("---\n", 2)
    suite = results["suite"]
    metadata = yaml.safe_load(front_matter)
    metadata |= _model_index(metadata.get("model-index", []), results, _title(body))
    own = f"### {suite}\n\n```\n{table}\n```\n\nMeasured by\n\n```\n{command}\n```\n"

    def replaced(match: re.Match[str]) -> str:
        parts = [part.strip() + "\n" for part in re.split(r"(?=^### )", match[1], flags=re.MULTILINE)]
        kept = [part for part in parts if not part.startswith((f"### {suite}\n", NOTHING_MEASURED, "\n"))]
        return "## Results\n\n" + "\n".join([*kept, own]) + "\n"

    body = _RESULTS.sub(replaced, body, count=1)
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n{body}"


def _title(body: str) -> str:
    title = re.search(r"^# (.+)$", body, re.MULTILINE)
    return "model" if title is None else title[1]


def _model_index(present: list[dict[str, Any]], results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Make the entry of the Hub: that of other suites, and what this one has measured."""
    suite = results["suite"]
    # Without a name of its task, a result is of the suite that its data set is called like.
    kept = [r for model in present for r in model["results"] if r["task"].get("name", r["dataset"]["type"]) != suite]
    of_suites = {"captions": _of_captions, "bits": _of_bits, "segmentation": _of_segmentation}
    measured = of_suites.get(suite, _pass_rates)(results)
    added = eval_results_to_model_index(name, measured)[0]["results"] if measured else []
    return {"model-index": [{"name": name, "results": kept + added}]} if kept or added else {}


def _pass_rates(results: Mapping[str, Any]) -> list[EvalResult]:
    suite, rates = results["suite"], dict[str, float]()
    if suite == "digits":
        rates["ten captions"] = results["recognised_fraction"]
    elif suite == "shapes":
        rates = {split: results["score"][split]["passed"]["rate"] for split in SPLITS}
    return [
        EvalResult(
            task_type="text-to-image",
            task_name=suite,
            dataset_type=suite,
            dataset_name=f"{suite}, {part}",
            metric_type="accuracy",
            metric_name="pictures that are as asked",
            metric_value=round(rate, 4),
        )
        for part, rate in rates.items()
    ]


def _of_bits(results: Mapping[str, Any]) -> list[EvalResult]:
    metrics = [
        (
            "bits_per_dimension",
            f"upper bound of -log2 p(x) of each value, image {condition}",
            round(results["bits_per_dimension"][condition]["mean"], 4),
        )
        for condition in results["terms_in_nats"]
    ]
    return _on_dataset(results, f"{results['protocol']['num_images']} images", metrics)


def _of_captions(results: Mapping[str, Any]) -> list[EvalResult]:
    protocol, of_clip = results["protocol"], results["distances"]["clip"]
    judge = f"features of the CLIP {of_clip['clip']}"
    score = results["clip_score"]["generated"]["mean"]
    metrics = [
        ("clip_score", f"CLIP score, {judge}", score),
        *_distances(of_clip, "frechet_distance", "kernel_distance", judge),
    ]
    if "not_available" not in results["distances"]["inception"]:
        metrics += _distances(results["distances"]["inception"], "fid", "kid", "features of Inception")
    rounded = [(kind, told, float(f"{value:.4g}")) for kind, told, value in metrics]
    return _on_dataset(results, f"{protocol['num_prompts']} captions", rounded)


def _of_segmentation(results: Mapping[str, Any]) -> list[EvalResult]:
    measures = results["measures"]
    metrics = [
        (kind, told, float(f"{measures[kind]['mean']:.4g}"))
        for kind, told in _OF_SEGMENTATIONS.items()
        if kind in measures and measures[kind]["mean"] is not None
    ]
    return _on_dataset(results, f"{results['protocol']['num_images']} images", metrics, "image-segmentation")


def _on_dataset(
    results: Mapping[str, Any],
    measured_on: str,
    metrics: Sequence[tuple[str, str, float]],
    task_type: str = "text-to-image",
) -> list[EvalResult]:
    """Write metrics, each a type, a name and a value, of a suite that measures on a data set."""
    protocol = results["protocol"]
    dataset = protocol["dataset"]
    return [
        EvalResult(
            task_type=task_type,
            task_name=results["suite"],
            dataset_type=hub_dataset(dataset) or without_local_paths(dataset),
            dataset_name=f"{without_local_paths(dataset)}, {measured_on}",
            dataset_split=protocol["dataset_split"],
            metric_type=kind,
            metric_name=told,
            metric_value=value,
        )
        for kind, told, value in metrics
    ]


def _distances(found: Mapping[str, Any], frechet: str, kernel: str, features: str) -> list[tuple[str, str, float]]:
    of_all = found["generated_to_real"]
    of_how_many = f"{of_all['num_images']} generated and as many real images, {features}"
    if of_all["rank_deficient"]:
        of_how_many += "; biased upwards, as there are no more images than features"
    return [
        (frechet, f"Frechet distance of {of_how_many}", of_all["frechet"]),
        (kernel, f"kernel distance of {of_how_many.split(';')[0]}", of_all["kernel"]),
    ]
