"""Whether a score is of the model that is about to be released, and of nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sd_pipeline import SDPipeline
from training.release.measured_score import MeasuredScore


def check_measured(pipe: SDPipeline, output: Path, measured: MeasuredScore) -> None:
    """Refuse a score that is not of what will be released, called with nothing but prompts.

    Args:
        pipe (`SDPipeline`): What will be released, its weights rounded.
        output (`Path`): The released folder, where the same model is already.
        measured (`MeasuredScore`): Its score.

    Raises:
        ValueError: If another folder was measured or called otherwise, or another model is there now.
    """
    if os.path.abspath(measured.model) != os.path.abspath(output) or not output.is_dir():
        raise ValueError(
            f"--evaluation is of {measured.model}; allowed: a score of {output}, released before without --evaluation"
        )
    recommended = {"scheduler": type(pipe.scheduler).__name__, **pipe.config["recommended_call"]}
    for name, value in recommended.items():
        if measured.protocol.get(name) != value:
            raise ValueError(
                f"--evaluation was measured with {name} {measured.protocol.get(name)!r}; allowed: {value!r}, which is "
                "recommended"
            )
    released = SDPipeline.from_pretrained(output)
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        if not _is_same(getattr(pipe, name), getattr(released, name)):
            raise ValueError(
                f"--evaluation: the {name} in {output} is not the one to be released; release without --evaluation, "
                "measure, and release again"
            )


def _is_same(one: Any, other: Any) -> bool:
    """Compare components: the weights of models, and the configuration of everything else."""
    if isinstance(one, torch.nn.Module) and isinstance(other, torch.nn.Module):
        weights, others = one.state_dict(), other.state_dict()
        return weights.keys() == others.keys() and all(torch.equal(weights[key], others[key]) for key in weights)
    if one is None or other is None:
        return one is other
    return _public_keys(one.config) == _public_keys(other.config)


def _public_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what says where a configuration was read."""
    return {key: value for key, value in config.items() if not key.startswith("_")}
