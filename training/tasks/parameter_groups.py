"""Which parameters decay."""

from __future__ import annotations

from typing import Any

import torch


def decay_matrices_only(model: torch.nn.Module, **overrides: Any) -> list[dict[str, Any]]:
    """Split a model's trained parameters: matrices and convolutions decay; biases, norms and scalars do not.

    Args:
        model (`torch.nn.Module`): The model.
        overrides: Settings of both groups, such as `lr`.

    Returns:
        `list[dict]`: Parameter groups for an optimizer whose default is to decay.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    rest = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": matrices, **overrides}, {"params": rest, "weight_decay": 0.0, **overrides}]
    return [group for group in groups if group["params"]]
