"""What adapters that teach new pairs of shape and colour gain on these pairs, and what they cost on everything else.

    accelerate launch benchmarks/lora_pairs.py --lora outputs/shapes_lora/pipeline

The same prompts and the same noise with and without the adapters, so that every prompt is compared with itself.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from sd_pipeline import SDPipeline
from training.data.shape_scenes import HELD_OUT_PAIRS
from training.data.shapes import ShapesSource
from training.evaluation.generation import generate_images
from training.evaluation.spreading import process_state, spread
from training.evaluation.suite import Call, aligned, sampling_line
from training.evaluation.suite_shapes import series_of_scenes
from training.evaluation.truth import check
from training.evaluation.truth_score import Rate


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pretrained/shapes-64", help="the model that the adapters are for")
    parser.add_argument(
        "--lora", type=Path, required=True, help="folder of the adapters, in the run that trained them"
    )
    parser.add_argument("--num-seen", type=int, default=1000, help="prompts of the split seen (default: 1000)")
    parser.add_argument("--num-pairs", type=int, default=500, help="prompts of each half of the pairs (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and noise (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("outputs/lora_pairs.json"), help="JSON to write")
    options = parser.parse_args(arguments)
    state = process_state()
    torch.set_num_threads(1)
    results = measure(options)
    if state.is_main_process:
        print(table(results))
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Generate with and without the adapters, and compare prompt by prompt."""
    config = yaml.safe_load((options.lora.parent / "config.yaml").read_text(encoding="utf-8"))
    trained = config["data"]["shape_pairs"]
    others = sorted(list(pair) for pair in HELD_OUT_PAIRS if list(pair) not in trained)
    pipe = SDPipeline.from_pretrained(options.model).to(process_state().device)
    call = Call(seed=options.seed)
    protocol = call.protocol(pipe)
    size, series = protocol["width"], series_of_scenes(options.seed)
    captions = {
        "seen": ShapesSource("seen", options.num_seen, size, series).captions,
        "trained pairs": ShapesSource("pair", options.num_pairs, size, series, trained).captions,
        "other pairs": ShapesSource("pair", options.num_pairs, size, series, others).captions,
    }
    before = {name: passes(pipe, prompts, call) for name, prompts in captions.items()}
    pipe.load_lora_weights(options.lora)
    after = {name: passes(pipe, prompts, call) for name, prompts in captions.items()}
    results = {name: compare(before[name], after[name]) for name in captions}
    for shape, color in trained:
        chosen = [i for i, caption in enumerate(captions["trained pairs"]) if f"{color} {shape}" in caption]
        of_pair = [[passed[i] for i in chosen] for passed in (before["trained pairs"], after["trained pairs"])]
        results[f"of these {color} {shape}"] = compare(*of_pair)
    protocol |= {"series_of_scenes": series, "trained_pairs": trained}
    return {"protocol": protocol, "results": results}


def passes(pipe: SDPipeline, prompts: Sequence[str], call: Call) -> list[bool]:
    """Generate a picture of each prompt and check it."""
    pictures = generate_images(pipe, prompts, call)
    return spread(lambda part: [check(pictures[i], prompts[i]).passed for i in part], range(len(prompts)), 25, "check")


def compare(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """Compare two passes over the same prompts: both rates, and their difference with its 95% interval.

    The variance of a difference of paired shares is (b + c - (b - c)^2 / n) / n^2, with b prompts that only the first
    passes and c that only the second passes.
    """
    n = len(before)
    lost = sum(first and not second for first, second in zip(before, after, strict=True))
    won = sum(second and not first for first, second in zip(before, after, strict=True))
    half = 1.96 * math.sqrt(lost + won - (won - lost) ** 2 / n) / n
    difference = (won - lost) / n
    return {
        "without": Rate(sum(before), n).to_dict(),
        "with": Rate(sum(after), n).to_dict(),
        "lost": lost,
        "won": won,
        "difference": {"value": difference, "low": difference - half, "high": difference + half},
    }


def table(results: dict[str, Any]) -> str:
    """Write the results as plain text, in percent."""
    rows = [["prompts", "number", "without", "with", "difference"]]
    for name, found in results["results"].items():
        rates = [Rate(found[key]["count"], found[key]["total"]) for key in ("without", "with")]
        value, low, high = (100 * found["difference"][key] for key in ("value", "low", "high"))
        rows.append([name, str(rates[0].total), *map(str, rates), f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"])
    return f"{sampling_line(results['protocol'])}\n\n{aligned(rows)}"


if __name__ == "__main__":
    main(sys.argv[1:])
