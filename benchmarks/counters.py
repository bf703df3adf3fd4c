"""What the U-Net of Stable Diffusion 1.5 asks of any device, in this package and in diffusers."""

from __future__ import annotations

from dataclasses import asdict

from diffusers import UNet2DConditionModel

from benchmarks.kernel_counts import work_of_unet
from benchmarks.measurement import Conditions, Row, cost_row
from sd_pipeline import SDUNet2DConditionModel

_PASSES = {"forward pass": False, "training step": True}
# Field of `Work`, its unit, and what one of it is in that unit.
_COUNTED = {"kernels": ("kernels", 1.0), "flop": ("GFLOP", 1e9), "num_bytes": ("GB", 1e9)}


def rows(conditions: Conditions) -> list[Row]:
    """Count for the section `counters`. One image, float32, on the meta device; see `kernel_counts.py`.

    Args:
        conditions (`Conditions`): Of them only whether to be quick, which leaves the training step out.
    """
    found = []
    for name, is_training in _PASSES.items():
        if is_training and conditions.is_tiny:
            continue
        ours = asdict(work_of_unet(SDUNet2DConditionModel, is_training))
        stock = asdict(work_of_unet(UNet2DConditionModel, is_training))
        for field, (unit, one) in _COUNTED.items():
            found.append(cost_row("counters", name, unit, [ours[field] / one], [stock[field] / one]))
    return found
