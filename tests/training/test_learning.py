"""A small run on the truth task learns what its captions say; a trainer that stopped learning cannot pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.runs import ROOT, environment

CONFIG = Path(__file__).with_name("learning.yaml")
NUM_PROMPTS = 40
LONGEST = 1_800
"""Seconds, on a busy machine. Alone on one core the training takes nine minutes."""

# In brackets what the run reaches.
LOWEST_PSNR = 28.0  # (30.3)
LARGEST_THUMBNAIL_ERROR = 0.04  # (0.029)
# Of 120 pictures; by chance a quarter of the backgrounds would be right.
LOWEST_BACKGROUND = 0.95  # (0.99)
LOWEST_COUNT = 0.33  # (0.44) as many objects as the caption says
LOWEST_COUNT_AND_COLOUR = 0.10  # (0.18) and their colours; by chance it would be an eighth of them at most


def run(script: str, *arguments: str) -> None:
    """Run one of the commands, and show what it said if it fails."""
    command = [sys.executable, str(ROOT / "training" / script), *arguments]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=LONGEST, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_a_small_run_learns_what_captions_say(tmp_path):
    run("train.py", "--config", str(CONFIG), f"--output_dir={tmp_path}")
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

    def last(name: str) -> float:
        return [row[name] for row in metrics if name in row][-1]

    assert last("validation_thumbnail_error") <= LARGEST_THUMBNAIL_ERROR
    assert last("validation_psnr") >= LOWEST_PSNR

    model = ["--model", str(tmp_path / "pipeline"), "--suite", "shapes", "--num-prompts", str(NUM_PROMPTS)]
    run("evaluate_model.py", *model)
    results = json.loads((tmp_path / "evaluation" / "shapes.json").read_text(encoding="utf-8"))
    failed = [set(failure["failed"]) for failure in results["failures"]]
    total = sum(split["passed"]["total"] for split in results["score"].values())

    def right(*parts: str) -> float:
        return 1 - sum(not found.isdisjoint(parts) for found in failed) / total

    assert right("background") >= LOWEST_BACKGROUND
    assert right("count") >= LOWEST_COUNT
    assert right("count", "colour") >= LOWEST_COUNT_AND_COLOUR
