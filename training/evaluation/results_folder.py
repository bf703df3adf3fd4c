"""Where the results of a measurement go."""

from __future__ import annotations

import os
from pathlib import Path

from sd_pipeline.pretrained_models import PACKAGED_MODELS


def default_output(model: str) -> Path:
    """Choose the folder beside a model; for one of the Hub or of the package, one of the working directory.

    Args:
        model (`str`): Folder of a pipeline, or its name.
    """
    folder = Path(os.path.abspath(model))
    if folder.is_dir() and "/".join(folder.parts[-2:]) not in PACKAGED_MODELS:
        return folder.parent / "evaluation"
    return Path("outputs") / "evaluation" / folder.name


def check_writable(folder: Path) -> None:
    """Find out before the work whether its results can be written.

    Args:
        folder (`Path`): What `--output` says, there or not.

    Raises:
        ValueError: If they cannot.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise ValueError(f"--output {folder}: {existing} is no folder that can be written to")
