"""The suite `shapes-inpaint`: half of a scene is masked and painted again from its caption."""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
from PIL import Image

from sd_pipeline import SDInpaintPipeline, SDPipeline
from training.data.shape_scenes import RELATIONS, Scene
from training.data.shapes import ShapesSource
from training.evaluation.contact_sheet import Print, contact_sheet
from training.evaluation.generation import generate_images
from training.evaluation.kept_pixels import is_kept
from training.evaluation.suite import Call, Report, aligned, sampling_line
from training.evaluation.suite_shapes import series_of_scenes
from training.evaluation.truth import PARTS, check
from training.evaluation.truth_score import Rate

_SHOWN = 16


def evaluate_inpainting(pipe: SDPipeline, num_prompts: int, call: Call) -> Report:
    """Mask one of the two objects of scenes of the split `seen`, paint it again and check the whole picture.

    The picture is divided in the middle, across the axis of the relation; the half in which the centre of one object
    lies, drawn by the seed, is the hole. The caption is that of the whole scene.

    Args:
        pipe (`SDPipeline`): The pipeline, on the device of the process.
        num_prompts (`int`): How many scenes, at least 1.
        call (`Call`): How to generate. Its seed chooses the scenes and the halves too.

    Returns:
        `Report`: with the picture `shapes-inpaint`: scenes with their holes, and what was painted.

    Raises:
        ValueError: If there are no scenes, or the call is impossible.
    """
    if num_prompts < 1:
        raise ValueError(f"--num-prompts {num_prompts}: allowed: at least 1")
    inpainting = SDInpaintPipeline.from_pipe(pipe)
    series = series_of_scenes(call.seed)
    protocol = {"num_prompts": num_prompts, "split": "seen", "series_of_scenes": series, **call.protocol(inpainting)}
    source, numbers = relation_scenes(num_prompts, protocol["width"], series)
    captions, pictures = [source.captions[n] for n in numbers], [source.image(n) for n in numbers]
    chosen = [int(np.random.default_rng([call.seed, i]).integers(2)) for i in range(num_prompts)]
    masks = [half_of(source.scene(n), which, source.size) for n, which in zip(numbers, chosen, strict=True)]
    started = time.monotonic()
    painted = generate_images(inpainting, captions, call, {"image": pictures, "mask_image": masks})
    seconds = time.monotonic() - started
    verdicts = [check(*pair) for pair in zip(painted, captions, strict=True)]
    outside = [np.asarray(mask) == 0 for mask in masks]
    kept = [is_kept(*three) for three in zip(pictures, painted, outside, strict=True)]
    rates = {
        "passed": Rate(sum(verdict.passed for verdict in verdicts), num_prompts),
        "all kept pixels identical": Rate(sum(kept), num_prompts),
        **{f"failed: {part}": Rate(sum(part in v.failed for v in verdicts), num_prompts) for part in PARTS},
    }
    holed = [Image.composite(Image.new("RGB", p.size, "white"), p, m) for p, m in zip(pictures, masks, strict=True)]
    remarks = [", ".join(verdict.failed) for verdict in verdicts]
    before = [Print(*pair) for pair in zip(holed, captions, strict=True)]
    after = [Print(*three) for three in zip(painted, captions, remarks, strict=True)]
    sections = [("masked", before[:_SHOWN]), (f"painted, {rates['passed']} pass", after[:_SHOWN])]
    results: dict[str, Any] = {
        "suite": "shapes-inpaint",
        "protocol": protocol,
        "rates": {name: rate.to_dict() for name, rate in rates.items()},
        "seconds": {"generation": round(seconds, 1)},
    }
    title = f"{num_prompts} scenes of two objects, half of each painted again\n{sampling_line(protocol)}\n\n"
    rows = [[name, str(rate)] for name, rate in rates.items()]
    return Report(results, title + aligned(rows), {"shapes-inpaint": contact_sheet(sections)})


def relation_scenes(count: int, size: int, series: int) -> tuple[ShapesSource, list[int]]:
    """Find the first scenes of two objects of the split `seen`.

    Args:
        count (`int`): How many.
        size (`int`): Side of the pictures, in pixels.
        series (`int`): Names the series of scenes.

    Returns:
        `ShapesSource` and `list[int]`: a source that holds them, and their indices in it.
    """
    num_samples = 4 * count
    while True:
        source = ShapesSource("seen", num_samples, size, series)
        found = [number for number in range(num_samples) if source.scene(number).kind == "relation"]
        if len(found) >= count:
            return source, found[:count]
        num_samples *= 2


def half_of(scene: Scene, number: int, size: int) -> Image.Image:
    """Draw the mask of the half of a picture in which an object of a relation stands.

    Args:
        scene (`Scene`): Of two objects.
        number (`int`): 0 or 1, which of them.
        size (`int`): Side of the picture, in pixels.

    Returns:
        `PIL.Image.Image`: white in this half, black in the other.
    """
    axis, _ = RELATIONS[cast(str, scene.relation)]
    mask = np.zeros((size, size), dtype=np.uint8)
    along = mask.T if axis == 0 else mask
    is_first = scene.objects[number].center[axis] < 0.5
    along[slice(0, size // 2) if is_first else slice(size // 2, size)] = 255
    return Image.fromarray(mask)
