"""What the machine can do at most: matrix products a second, and bytes copied in memory a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from benchmarks.measurement import Conditions, Row, interleaved, rate_row, synchronised

# Large enough that a processor, or a GPU, does nothing else for a while.
_SIDE = {"cpu": 4096, "cuda": 8192}
_COPIED_BYTES = {"cpu": 2**29, "cuda": 2**32}
_TINY_SIDE, _TINY_BYTES = 128, 2**20
_PRODUCTS_A_CALL = {"cpu": 1, "cuda": 10}


def rows(conditions: Conditions) -> list[Row]:
    """Measure the section `limits`.

    Args:
        conditions (`Conditions`): How.
    """
    return [*matmul_rows(conditions), bandwidth_row(conditions)]


def matmul_rows(conditions: Conditions) -> list[Row]:
    """Measure the rate of large square matrix products, 2 n^3 operations each, in GFLOP/s.

    Args:
        conditions (`Conditions`): How.

    Returns:
        `list[Row]`: Of float32, on a GPU of TF32, and of bfloat16.
    """
    device = conditions.device
    side = _TINY_SIDE if conditions.is_tiny else _SIDE[device.type]
    calls = _PRODUCTS_A_CALL[device.type]
    products = {"float32": _product(torch.float32, side, device, calls, "highest")}
    if device.type == "cuda":
        products["TF32"] = _product(torch.float32, side, device, calls, "high")
    products["bfloat16"] = _product(torch.bfloat16, side, device, calls, "highest")
    seconds = interleaved(synchronised(products, device), conditions.repetitions)
    amount = calls * 2 * side**3 / 1e9
    return [
        rate_row("limits", f"matrix product, {name}, {side} x {side}", "GFLOP/s", amount, seconds[name], None)
        for name in products
    ]


def _product(dtype: torch.dtype, side: int, device: torch.device, calls: int, precision: str) -> Callable[[], None]:
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    result = torch.empty_like(left)

    def multiply() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            for _ in range(calls):
                torch.mm(left, right, out=result)
        finally:
            torch.set_float32_matmul_precision(before)

    return multiply


def bandwidth_row(conditions: Conditions) -> Row:
    """Measure how fast a tensor that is larger than all caches is copied: bytes read and bytes written, in GB/s.

    Args:
        conditions (`Conditions`): How.
    """
    device = conditions.device
    size = _TINY_BYTES if conditions.is_tiny else _COPIED_BYTES[device.type]
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    seconds = interleaved(synchronised({"copy": partial(target.copy_, source)}, device), conditions.repetitions)
    row = rate_row("limits", "copy in memory", "GB/s", 2 * size / 1e9, seconds["copy"], None)
    return replace(row, note=f"{size / 2**20:.0f} MiB read and as many written")
