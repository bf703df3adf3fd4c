"""The score of the truth task: how many pictures pass, by split, kind and failed part, with 95% Wilson intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from training.data.shape_scenes import KINDS, SPLITS, split_of
from training.evaluation.suite import aligned
from training.evaluation.truth import PARTS, Verdict
from training.evaluation.truth_grammar import parse_caption

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of pictures.

    Args:
        count (`int`): How many.
        total (`int`): Of how many, at least one.
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the share, in [0, 1]."""
        low, high = binomtest(self.count, self.total).proportion_ci(_CONFIDENCE, method="wilson")
        return float(low), float(high)

    def to_dict(self) -> dict[str, float]:
        """Return what JSON can hold: count, total, rate, and the ends of the interval, low and high."""
        low, high = self.interval
        return {"count": self.count, "total": self.total, "rate": self.value, "low": low, "high": high}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True, slots=True)
class SplitScore:
    """The score of one split.

    Args:
        passed (`Rate`): What passes.
        kinds (`dict[str, Rate]`): What passes, of each kind of scene that there is.
        failed (`dict[str, Rate]`): In how many of the split's pictures each part fails; several may fail in one.
    """

    passed: Rate
    kinds: dict[str, Rate]
    failed: dict[str, Rate]


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a model.

    Args:
        splits (`dict[str, SplitScore]`): The splits of which there are pictures.
    """

    splits: dict[str, SplitScore]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: for each split `passed`, and by name `kinds` and `failed`."""
        return {
            name: {
                "passed": split.passed.to_dict(),
                "kinds": {kind: rate.to_dict() for kind, rate in split.kinds.items()},
                "failed": {part: rate.to_dict() for part, rate in split.failed.items()},
            }
            for name, split in self.splits.items()
        }

    def table(self) -> str:
        """Write the score as plain text: what passes, below it what fails, in percent with its interval."""
        passed = [["passed", "prompts", "all", *KINDS]]
        failed = [["failed", "prompts", *PARTS]]
        for name, split in self.splits.items():
            prompts = str(split.passed.total)
            kinds = [str(split.kinds[kind]) if kind in split.kinds else "-" for kind in KINDS]
            passed.append([name, prompts, str(split.passed), *kinds])
            failed.append([name, prompts, *(str(split.failed[part]) for part in PARTS)])
        return f"{aligned(passed)}\n\n{aligned(failed)}"


def score(captions: Sequence[str], verdicts: Sequence[Verdict]) -> Score:
    """Count what passes and what fails.

    Args:
        captions (sequence of `str`): The captions, of any splits.
        verdicts (sequence of `Verdict`): What the checker said about the picture of each.

    Returns:
        `Score`: of the splits that the captions are from.

    Raises:
        ValueError: If the grammar does not know a caption, or there is not one verdict a caption.
    """
    if len(captions) != len(verdicts):
        raise ValueError(f"{len(verdicts)} verdicts on {len(captions)} captions; allowed: one a caption")
    scenes = [parse_caption(caption) for caption in captions]
    judged = [(split_of(scene), scene.kind, verdict) for scene, verdict in zip(scenes, verdicts, strict=True)]
    splits = {}
    for name in SPLITS:
        of_split = [(kind, verdict) for split, kind, verdict in judged if split == name]
        if of_split:
            splits[name] = _score_split(of_split)
    return Score(splits)


def _score_split(judged: list[tuple[str, Verdict]]) -> SplitScore:
    verdicts_by_kind = {kind: [verdict for other, verdict in judged if other == kind] for kind in KINDS}
    return SplitScore(
        passed=_pass_rate([verdict for _, verdict in judged]),
        kinds={kind: _pass_rate(verdicts) for kind, verdicts in verdicts_by_kind.items() if verdicts},
        failed={part: Rate(sum(part in verdict.failed for _, verdict in judged), len(judged)) for part in PARTS},
    )


def _pass_rate(verdicts: list[Verdict]) -> Rate:
    return Rate(sum(verdict.passed for verdict in verdicts), len(verdicts))
