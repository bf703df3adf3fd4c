"""The suite `shapes-outpaint`: a scene is extended on all sides, and its background looked at across the seam."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from PIL import Image

from sd_pipeline import SDOutpaintPipeline, SDPipeline
from training.data.shapes import ShapesSource
from training.evaluation.contact_sheet import Print, contact_sheet
from training.evaluation.generation import generate_images
from training.evaluation.kept_pixels import is_kept
from training.evaluation.suite import Call, Report, aligned, sampling_line
from training.evaluation.suite_shapes import series_of_scenes
from training.evaluation.truth_score import Rate

_SHOWN = 16
_WIDTHS = (2, 4, 8)
_ALLOWED = 6


def evaluate_outpainting(pipe: SDPipeline, num_prompts: int, call: Call) -> Report:
    """Extend scenes of the split `seen` by half of their side on each side, with their caption.

    Args:
        pipe (`SDPipeline`): The pipeline, on the device of the process.
        num_prompts (`int`): How many scenes, at least 1.
        call (`Call`): How to generate. Its seed chooses the scenes too.

    Returns:
        `Report`: how often the inside is the same to the bit, and how often `seam_step` is at most 6 of 255; with the
        picture `shapes-outpaint`.

    Raises:
        ValueError: If there are no scenes, or the call is impossible.
    """
    if num_prompts < 1:
        raise ValueError(f"--num-prompts {num_prompts}: allowed: at least 1")
    outpainting = SDOutpaintPipeline.from_pipe(pipe)
    series = series_of_scenes(call.seed)
    protocol = {"num_prompts": num_prompts, "split": "seen", "series_of_scenes": series, **call.protocol(outpainting)}
    size = protocol["width"]
    padding = size // 2
    source = ShapesSource("seen", num_prompts, size, series)
    pictures = [source.image(number) for number in range(num_prompts)]
    started = time.monotonic()
    painted = generate_images(outpainting, source.captions, call, {"image": pictures}, padding=(padding,) * 4)
    seconds = time.monotonic() - started
    everything = np.ones((size, size), dtype=bool)
    insides = [picture.crop((padding, padding, padding + size, padding + size)) for picture in painted]
    kept = [is_kept(*pair, everything) for pair in zip(pictures, insides, strict=True)]
    steps = {width: [seam_step(picture, padding, width) for picture in painted] for width in _WIDTHS}
    rates = {
        "inside identical": Rate(sum(kept), num_prompts),
        **{
            f"background within {_ALLOWED}/255 across the seam, {width} px": Rate(
                sum(step <= _ALLOWED for step in steps[width]), num_prompts
            )
            for width in _WIDTHS
        },
    }
    prints = [Print(*pair) for pair in zip(painted, source.captions, strict=True)][:_SHOWN]
    results: dict[str, Any] = {
        "suite": "shapes-outpaint",
        "protocol": {**protocol, "padding": padding},
        "rates": {name: rate.to_dict() for name, rate in rates.items()},
        "seconds": {"generation": round(seconds, 1)},
    }
    title = f"{num_prompts} scenes extended by {padding} pixels on each side\n{sampling_line(protocol)}\n\n"
    rows = [[name, str(rate)] for name, rate in rates.items()]
    return Report(results, title + aligned(rows), {"shapes-outpaint": contact_sheet([("extended", prints)])})


def seam_step(picture: Image.Image, padding: int, width: int) -> float:
    """Measure how much the background changes where the old picture ends.

    The largest difference, over the channels, between the medians of two frames of pixels: the outermost of the old
    picture, and those around them. Backgrounds fill more than half of a frame; objects move a median little.

    Args:
        picture (`PIL.Image.Image`): RGB, extended by `padding` on each side.
        padding (`int`): In pixels.
        width (`int`): Of each frame, in pixels.

    Returns:
        `float`: In [0, 255].
    """
    levels = np.asarray(picture, dtype=np.float64)

    def median_of_frame(start: int) -> np.ndarray:
        """Of the pixels from `start` to `start + width` away from the nearest border of the picture."""
        rows, columns = (np.minimum(np.arange(side), np.arange(side)[::-1]) for side in levels.shape[:2])
        distance = np.minimum(rows[:, None], columns)
        return np.median(levels[(distance >= start) & (distance < start + width)], axis=0)

    return float(np.abs(median_of_frame(padding) - median_of_frame(padding - width)).max())
