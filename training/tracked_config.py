"""What trackers are told of a run's configuration: nothing of the machine, and nothing secret."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from sd_pipeline.publishing.model_card import without_local_paths
from training.config import TrainConfig

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@|\?\S*")
_HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")


def tracked_config(config: TrainConfig) -> dict[str, Any]:
    """Return a configuration as others may read it.

    Args:
        config (`TrainConfig`): The run.

    Returns:
        `dict`: Its blocks; of absolute paths the last part, of a URL neither user and password nor query, and no
        token of the Hub.
    """
    blocks: dict[str, Any] = without_local_paths(_without_secrets(dataclasses.asdict(config)))
    return blocks


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if not isinstance(value, str):
        return value
    if "://" in value:
        value = _CREDENTIALS.sub("", value.removeprefix("file://"))
    return _HUB_TOKEN.sub("", value)
