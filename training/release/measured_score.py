"""The score of the truth task in a model card: read from what `evaluate_model.py --suite shapes` has written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from sd_pipeline.publishing.model_card import markdown_table
from training.data.shape_scenes import KINDS, SPLITS
from training.evaluation.suite import sampling_line
from training.evaluation.truth import PARTS
from training.evaluation.truth_score import Rate


class MeasuredScore:
    """What was measured, and how.

    Args:
        file (`Path`): `shapes.json` of the evaluation.

    Attributes:
        model (`str`): What was measured, as it was given to the evaluation.
        protocol (`dict[str, Any]`): See `training.evaluation.suite_shapes`.
        score (`dict[str, Any]`): That of the generated pictures, as `Score.to_dict` writes it.
        ceiling (`dict[str, Any]`, *optional*): That of reconstructions; none without an autoencoder.

    Raises:
        ValueError: If there is no such file, or it is not the result of this suite on all splits.
    """

    def __init__(self, file: Path) -> None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"--evaluation {file}: cannot be read ({type(error).__name__}: {error})") from error
        try:
            if content["suite"] != "shapes":
                raise ValueError(f"--evaluation {file}: is of the suite {content['suite']!r}; allowed: 'shapes'")
            self.model: str = content["model"]
            self.protocol: dict[str, Any] = content["protocol"]
            self.score: dict[str, Any] = content["score"]
            self.ceiling: dict[str, Any] | None = content["ceiling"]
            self.tables(), self.command(""), self.model_index("")
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"--evaluation {file}: is no result of evaluate_model.py --suite shapes ({type(error).__name__}: "
                f"{error})"
            ) from error

    def tables(self) -> str:
        """Write the score as Markdown: what passes, what fails, the ceiling, and the protocol under them."""
        passed = [["**passed**", "prompts", "all", *KINDS], *_passed_rows(self.score)]
        failed = [["**failed**", "prompts", *PARTS], *_failed_rows(self.score)]
        parts = ["Generated pictures that pass:", _table(passed), "Pictures in which a part fails:", _table(failed)]
        if self.ceiling is not None:
            ceiling = [["**ceiling**", "prompts", "all", *KINDS], *_passed_rows(self.ceiling)]
            parts += ["Real pictures of the same captions that pass after the autoencoder:", _table(ceiling)]
        parts.append(
            f"With 95% Wilson intervals. {self.protocol['num_prompts']} prompts of each split, one picture each; "
            f"{sampling_line(self.protocol)}; the weights of this repository, computed in {self.protocol['dtype']}."
        )
        return "\n\n".join(parts)

    def command(self, repository: str) -> str:
        """Write the command that gives this score.

        Args:
            repository (`str`): The measured model.

        Returns:
            `str`: What to type in a checkout, with every number of the protocol.
        """
        names = ("num_prompts", "num_inference_steps", "guidance_scale", "eta", "seed", "batch_size")
        options = " ".join(f"--{name.replace('_', '-')} {self.protocol[name]}" for name in names)
        return (
            f"accelerate launch training/evaluate_model.py --model {shlex.quote(repository)} --suite shapes \\\n"
            f"    {options}"
        )

    def model_index(self, name: str) -> list[dict[str, Any]]:
        """Write the pass rates for the Hub.

        Args:
            name (`str`): Of the model.

        Returns:
            `list[dict[str, Any]]`: What the metadata of a card hold under `model-index`.
        """
        results = [
            EvalResult(
                task_type="text-to-image",
                task_name="text-image agreement",
                dataset_type="truth-task",
                dataset_name=f"truth task, split {split}",
                dataset_split=split,
                metric_type="accuracy",
                metric_name="pass rate",
                metric_value=round(self.score[split]["passed"]["rate"], 4),
            )
            for split in SPLITS
        ]
        return eval_results_to_model_index(name, results)


def _passed_rows(score: Mapping[str, Any]) -> list[list[str]]:
    return [
        [split, str(score[split]["passed"]["total"]), *map(_rate, (score[split]["passed"], *_kinds(score[split])))]
        for split in SPLITS
    ]


def _failed_rows(score: Mapping[str, Any]) -> list[list[str]]:
    return [
        [split, str(score[split]["passed"]["total"]), *(_rate(score[split]["failed"][part]) for part in PARTS)]
        for split in SPLITS
    ]


def _kinds(split: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    return [split["kinds"].get(kind) for kind in KINDS]


def _rate(rate: Mapping[str, Any] | None) -> str:
    return "-" if rate is None else str(Rate(rate["count"], rate["total"]))


def _table(rows: list[list[str]]) -> str:
    return markdown_table(rows[0], rows[1:])
