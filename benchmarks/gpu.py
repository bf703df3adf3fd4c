"""How fast a GPU trains and samples a U-Net of the size of Stable Diffusion 1.5 with this package.

    python benchmarks/gpu.py [--output outputs/bench/gpu.json] [--no-compile] [--channels-last]

Latents of 64 x 64 (images of 512 pixels) come from a cache in memory, 64 an update, in bfloat16: images a second after
a minute of training, over another minute, and their share of the measured rate of bfloat16 matrix products. Then the
sampler, 50 steps with guidance, of one image and of 16, without and with CUDA graphs. Every number is printed and in
the file as soon as it is known; the same command goes on with what is missing or failed. `--size tiny` runs anywhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch

from benchmarks.findings import Findings
from benchmarks.gpu_sampling import sampling_speed
from benchmarks.gpu_sizes import SIZES
from benchmarks.gpu_training import training_speed
from benchmarks.limits import bandwidth_row, matmul_rows
from benchmarks.machine import ROOT, default_device, describe_machine
from benchmarks.measurement import Conditions, forget

_REPETITIONS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments (sequence of `str`, *optional*): By default those of this process.

    Returns:
        `int`: Exit code: 0, 1 if something could not be measured, 2 if the options are wrong.
    """
    options = parse(arguments)
    device = default_device()
    try:
        if device.type == "cpu" and options.size != "tiny":
            raise ValueError(f"--size {options.size}: needs a GPU that torch sees; without one only tiny is allowed")
        findings = Findings(options.output, subject_of(options, device))
    except (ValueError, OSError) as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    diffusers.utils.logging.set_verbosity_error()
    torch.backends.cudnn.benchmark = True  # Shapes never change, so the fastest convolutions are looked for once.
    measure(findings, options, device)
    print(f"written: {findings.file}")
    return 1 if findings.failures else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments (sequence of `str`, *optional*): By default those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="sd-1.5", help="of the networks (default: sd-1.5)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available(),
        help="torch.compile of the U-Net (default: on a GPU)",
    )
    parser.add_argument("--channels-last", action="store_true", help="weights and latents with their channels last")
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "outputs" / "bench" / "gpu.json",
        help="JSON file of the results (default: outputs/bench/gpu.json)",
    )
    return parser.parse_args(arguments)


def subject_of(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Say what is measured, where and how.

    Args:
        options (`argparse.Namespace`): Of `parse`.
        device (`torch.device`): Where.
    """
    chosen = {name: getattr(options, name) for name in ("size", "compile", "channels_last")}
    return {**chosen, "cudnn_benchmark": True, "machine": describe_machine(device)}


def measure(findings: Findings, options: argparse.Namespace, device: torch.device) -> None:
    """Measure everything that is not in the file.

    Args:
        findings (`Findings`): Where it goes.
        options (`argparse.Namespace`): Of `parse`.
        device (`torch.device`): Where.
    """
    size = SIZES[options.size]
    conditions = Conditions(_REPETITIONS, device, options.size == "tiny")
    findings.measure("limits", partial(limits, conditions))
    rate = findings.found.get("limits", {}).get("bfloat16_gflops")
    bf16_flops = None if rate is None else 1e9 * rate
    with_layout = {"use_channels_last": options.channels_last}
    findings.measure(
        "training",
        lambda: training_speed(size, device, bf16_flops, options.compile, note=findings.note, **with_layout),
    )
    for use_compile in (False, True) if options.compile else (False,):
        for batch_size in size.sampled:
            forget(device)
            name = f"sampler, batch {batch_size}, {'compiled' if use_compile else 'eager'}"
            findings.measure(name, partial(sampling_speed, size, device, batch_size, use_compile, **with_layout))


def limits(conditions: Conditions) -> dict[str, Any]:
    """Measure what matrix products and copies reach.

    Args:
        conditions (`Conditions`): How.

    Returns:
        `dict[str, Any]`: GFLOP/s by dtype, and GB/s.
    """
    names = {"float32": "float32_gflops", "TF32": "tf32_gflops", "bfloat16": "bfloat16_gflops"}
    rows = matmul_rows(conditions)
    found = {key: row.spread.median for row in rows for name, key in names.items() if f" {name}," in row.name}
    return {**found, "copy_gb_per_second": bandwidth_row(conditions).spread.median}


if __name__ == "__main__":
    sys.exit(main())
