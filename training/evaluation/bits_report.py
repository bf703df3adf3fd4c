"""Telling the bits of images: the table with its protocol, and the picture of the terms by timestep."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from training.evaluation.suite import aligned

_TERMS = {
    "total": "nats an image",
    "distortion": "  distortion: the pixels",
    "rate": "  rate: all that is diffused",
    "reconstruction": "    -ln p(x|z)",
    "posterior": "    ln q(z|x)",
    "L_T": "    L_T",
    "L_t": "    L_1 to L_(T-1)",
    "L_0": "    L_0",
}


def bits_table(results: Mapping[str, Any]) -> str:
    """Write the results of the suite `bits` for a person.

    Args:
        results (`Mapping[str, Any]`): As `evaluate_bits` makes them.

    Returns:
        `str`: Several lines, the protocol first.
    """
    terms, bits = results["terms_in_nats"], results["bits_per_dimension"]
    conditions = list(terms)
    others = [name for name in bits if name not in conditions]
    rows = [
        ("mean and standard error", *conditions),
        ("bits per dimension", *(_told(bits[c], 3) for c in conditions)),
        *((text, *(_told(terms[c][name], 1) for c in conditions)) for name, text in _TERMS.items()),
    ]
    beside = [("bits per dimension of the same images", ""), *((name, _told(bits[name], 3)) for name in others)]
    parts = [_protocol(results["protocol"]), aligned(rows), aligned(beside)]
    entropy = results["no_distribution"]
    if entropy is not None:
        parts.append(
            f"binary cross-entropy, the training loss: {entropy['binary_cross_entropy_in_bits']:.3f} bits of each "
            f"value,\nwhich is no code length: its masses over the levels sum to {entropy['sum_over_levels']:.1f}"
        )
    return "\n\n".join(parts)


def _told(found: Mapping[str, float] | None, digits: int) -> str:
    return "-" if found is None else f"{found['mean']:.{digits}f} +- {found['standard_error']:.{digits}f}"


def _protocol(protocol: Mapping[str, Any]) -> str:
    drawn, total = protocol["num_timesteps"], protocol["num_train_timesteps"]
    summed = f"all {total} timesteps" if drawn == "all" else f"{drawn} drawn of {total} timesteps"
    size = f"{protocol['width']}x{protocol['height']}"
    lines = [
        f"{protocol['num_images']} images of {size} pixels, {protocol['num_dimensions']} values of 256 levels each",
        f"variational bound, {summed}, variance {protocol['variance_type']}, seed {protocol['seed']}",
    ]
    likelihood = protocol["likelihood"]
    if likelihood is None:
        lines.append("in pixel space: L_0 is the mass of each level")
    else:
        is_gaussian = likelihood["std"] is not None
        kind = f"Gaussian of deviation {likelihood['std']:.4g}" if is_gaussian else "continuous Bernoulli"
        lines.append(f"p(x|z): {kind} ({protocol['likelihood_origin']}), binned to the levels")
    return "\n".join(lines)


def curve_picture(curves: Mapping[str, Sequence[float]]) -> Image.Image:
    """Draw the terms by timestep.

    Args:
        curves (`Mapping[str, Sequence[float]]`): L_0, L_1 ... in nats, by condition.

    Returns:
        `PIL.Image.Image`: Terms that are positive, on logarithmic axes; timestep t stands at t + 1.
    """
    # Without `pyplot`, which would choose a window system and keep the figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    panel = figure.subplots()
    for condition, curve in curves.items():
        terms = np.asarray(curve)
        steps = np.arange(1, len(terms) + 1)
        panel.plot(steps[terms > 0], terms[terms > 0], label=condition, linewidth=1.2)
    panel.set(xscale="log", yscale="log", xlabel="t + 1", ylabel="L_t, nats an image")
    panel.grid(alpha=0.3)
    panel.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return Image.open(picture).convert("RGB")
