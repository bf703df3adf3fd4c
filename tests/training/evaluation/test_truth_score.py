"""Rates by split, kind and failed part, and their intervals."""

from __future__ import annotations

import json
import math

import pytest

from training.data.shape_scenes import caption_of, sample_scene, split_of
from training.evaluation.truth import Verdict
from training.evaluation.truth_score import Rate, score

SEEN = "a large green circle on a grey background"
PAIR = "two small red stars on a grey background"
PASSES = Verdict(())


@pytest.mark.parametrize(("count", "total"), [(0, 300), (285, 300), (300, 300), (1, 1), (7, 12)])
def test_the_interval_is_that_of_wilson(count: int, total: int) -> None:
    """Centre and half width: (p + z^2 / 2n) / (1 + z^2 / n), z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)."""
    z, p = 1.959963984540054, count / total
    center = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    assert Rate(count, total).interval == pytest.approx((center - half, center + half), abs=1e-12)
    assert Rate(count, total).value == p


def test_counts() -> None:
    captions = [SEEN, SEEN, SEEN, PAIR, PAIR]
    verdicts = [PASSES, Verdict(("colour", "size")), Verdict(("colour",)), PASSES, Verdict(("count",))]
    found = score(captions, verdicts)
    assert list(found.splits) == ["seen", "pair"]
    seen, pair = found.splits["seen"], found.splits["pair"]
    assert (seen.passed, pair.passed) == (Rate(1, 3), Rate(1, 2))
    assert seen.kinds == {"attribute": Rate(1, 3)}
    assert pair.kinds == {"count": Rate(1, 2)}
    assert {part: rate.count for part, rate in seen.failed.items() if rate.count} == {"colour": 2, "size": 1}
    assert pair.failed["count"] == Rate(1, 2)


def test_all_splits_and_kinds() -> None:
    scenes = [sample_scene(1, index) for index in range(500)]
    found = score([caption_of(scene) for scene in scenes], [PASSES] * len(scenes))
    assert list(found.splits) == ["seen", "caption", "pair"]
    for name, split in found.splits.items():
        assert split.passed.total == sum(split_of(scene) == name for scene in scenes)
        assert list(split.kinds) == ["attribute", "relation", "count"]
        assert sum(rate.total for rate in split.kinds.values()) == split.passed.total


def test_table_and_json() -> None:
    found = score([SEEN] * 300 + [PAIR], [PASSES] * 285 + [Verdict(("colour",))] * 15 + [PASSES])
    table = found.table()
    lines = table.splitlines()
    assert lines[0].split() == ["passed", "prompts", "all", "attribute", "relation", "count"]
    assert lines[1].startswith("seen    300      95.0% [91.9, 96.9]")
    assert lines[4].split() == ["failed", "prompts", "background", "count", "colour", "shape", "size", "relation"]
    assert "5.0% [3.1, 8.1]" in lines[5]
    assert [line for line in lines if line != line.rstrip()] == []
    told = json.loads(json.dumps(found.to_dict()))
    assert told["seen"]["passed"]["rate"] == 0.95
    assert told["seen"]["passed"]["count"] == 285
    assert told["seen"]["failed"]["colour"]["low"] == pytest.approx(0.0305, abs=1e-3)
    assert told["pair"]["kinds"] == {"count": told["pair"]["passed"]}


def test_no_captions() -> None:
    assert score([], []).splits == {}


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 verdicts on 2 captions; allowed: one a caption"):
        score([SEEN, SEEN], [PASSES])
    with pytest.raises(ValueError, match="no caption of the truth task"):
        score(["a cat"], [PASSES])
