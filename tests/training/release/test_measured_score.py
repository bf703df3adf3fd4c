"""A score is read as the evaluation writes it, and shown in full."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from training.data.shape_scenes import SPLITS
from training.data.shapes import ShapesSource
from training.evaluation.options import parse_options
from training.evaluation.truth import Verdict
from training.evaluation.truth_score import score
from training.release.measured_score import MeasuredScore

CAPTIONS = [caption for split in SPLITS for caption in ShapesSource(split, 4, 64, -1).captions]
PROTOCOL = {
    "num_prompts": 4,
    "width": 64,
    "height": 64,
    "scheduler": "DDIMScheduler",
    "num_inference_steps": 25,
    "guidance_scale": 2.5,
    "guidance_rescale": 0.0,
    "eta": 0.0,
    "seed": 7,
    "batch_size": 10,
    "dtype": "float32",
}


def results(**changes: Any) -> dict[str, Any]:
    verdicts = [Verdict(("colour", "size") if number == 5 else ()) for number in range(len(CAPTIONS))]
    found = score(CAPTIONS, verdicts).to_dict()
    perfect = score(CAPTIONS, [Verdict(())] * len(CAPTIONS)).to_dict()
    whole = {"suite": "shapes", "model": "m", "protocol": PROTOCOL, "score": found, "ceiling": perfect}
    return {**whole, **changes}


def measured(folder: Path, **changes: Any) -> MeasuredScore:
    (folder / "shapes.json").write_text(json.dumps(results(**changes)))
    return MeasuredScore(folder / "shapes.json")


def test_tables(tmp_path):
    text = measured(tmp_path).tables()
    passed, rest = text.split("| **failed**")
    failed, ceiling = rest.split("| **ceiling**")
    assert "| seen | 4 | 100.0% [51.0, 100.0] |" in passed
    assert "| caption | 4 | 75.0% [30.1, 95.4] |" in passed
    (row,) = [line for line in failed.splitlines() if line.startswith("| caption")]
    cells = [cell.strip().split("%")[0] for cell in row.strip("|").split("|")]
    assert cells == ["caption", "4", "0.0", "0.0", "25.0", "0.0", "25.0", "0.0"]
    assert "| caption | 4 | 100.0%" in ceiling
    assert "4 prompts of each split, one picture each; 64x64 pixels, DDIMScheduler, 25 steps" in ceiling
    assert "guidance scale 2.5, seed 7" in ceiling
    for table in text.split("\n\n")[1::2]:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_pixel_models_have_no_ceiling(tmp_path):
    assert "ceiling" not in measured(tmp_path, ceiling=None).tables()


def test_command_asks_for_what_was_measured(tmp_path):
    launcher, script, *arguments = shlex.split(measured(tmp_path).command("pretrained/my shapes").replace("\\\n", ""))[
        1:
    ]
    assert (launcher, script) == ("launch", "training/evaluate_model.py")
    options = parse_options(arguments)
    assert (options.model, options.suite) == ("pretrained/my shapes", "shapes")
    for name in ("num_prompts", "num_inference_steps", "guidance_scale", "seed", "batch_size"):
        assert getattr(options, name) == PROTOCOL[name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot be read \(JSONDecodeError"),
        ("[]", "is no result of evaluate_model.py --suite shapes"),
        (json.dumps(results(suite="digits")), "is of the suite 'digits'; allowed: 'shapes'"),
        (json.dumps(results(score={})), r"is no result of evaluate_model.py --suite shapes \(KeyError: 'seen'\)"),
        (json.dumps(results(protocol={})), "KeyError: 'num_prompts'"),
    ],
    ids=["broken", "list", "digits", "no score", "no protocol"],
)
def test_other_files(tmp_path, content, message):
    (tmp_path / "shapes.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^--evaluation .*shapes\.json: .*{message}") as error:
        MeasuredScore(tmp_path / "shapes.json")
    assert "\n" not in str(error.value)
