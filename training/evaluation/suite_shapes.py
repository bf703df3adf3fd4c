"""The truth task: how many generated pictures show what their captions say, and what the autoencoder lets through."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from sd_pipeline import SDAutoencoderKL, SDPipeline
from training.data.image_transforms import to_pixel_values
from training.data.pictures import to_picture
from training.data.shape_scenes import SPLITS
from training.data.shapes import ShapesSource
from training.evaluation.contact_sheet import Print, contact_sheet
from training.evaluation.generation import generate_images
from training.evaluation.reconstruction import reconstruct
from training.evaluation.spreading import spread
from training.evaluation.suite import Call, Report, sampling_line
from training.evaluation.truth import Verdict, check
from training.evaluation.truth_score import Score, score

# Of each split, at most.
_SHOWN_PASSED, _SHOWN_FAILED = 8, 16


def series_of_scenes(seed: int) -> int:
    """Name the series of scenes whose captions an evaluation takes, by its seed.

    Training draws from the series of a run's seed, which is not negative, and validation from one that is named by 128
    bits (see `load_captioned_images`). So a negative number is a series of neither.

    Args:
        seed (`int`): The seed of the evaluation, at least 0.

    Returns:
        `int`: -1 - seed.
    """
    return -1 - seed


class TruthScenes:
    """The scenes of an evaluation: equally many of each split, one split after the other.

    Args:
        num_prompts (`int`): Scenes of each split.
        size (`int`): Side of their pictures, in pixels.
        series (`int`): The series that they are from.

    Attributes:
        captions (`list[str]`): Their captions.

    Raises:
        DataError: If `num_prompts` or `size` is not positive.
    """

    def __init__(self, num_prompts: int, size: int, series: int) -> None:
        self._sources = [ShapesSource(split, num_prompts, size, series) for split in SPLITS]
        self._num_prompts = num_prompts
        self.captions = [caption for source in self._sources for caption in source.captions]

    def __len__(self) -> int:
        return len(self.captions)

    def image(self, index: int) -> Image.Image:
        """Draw the real picture of a scene."""
        split, number = divmod(index, self._num_prompts)
        return self._sources[split].image(number)


def evaluate_shapes(pipe: SDPipeline, num_prompts: int, call: Call) -> Report:
    """Generate from captions of every split and check the pictures, and reconstructions of real ones too.

    Args:
        pipe (`SDPipeline`): The pipeline, on the device of the process.
        num_prompts (`int`): Captions of each split, at least 1.
        call (`Call`): How to generate. Its seed chooses the captions too.

    Returns:
        `Report`: with the picture `shapes`, a contact sheet of what passes and what fails.

    Raises:
        ValueError: If there are no prompts, the call is impossible, or the model's images are not square or too small.
    """
    if num_prompts < 1:
        raise ValueError(f"--num-prompts {num_prompts}: allowed: at least 1 of each split")
    series = series_of_scenes(call.seed)
    protocol = {"num_prompts": num_prompts, "splits": list(SPLITS), "series_of_scenes": series, **call.protocol(pipe)}
    size = (protocol["width"], protocol["height"])
    scenes = TruthScenes(num_prompts, protocol["width"], series)
    check(Image.new("RGB", size), scenes.captions[0])  # So that a size which it refuses is known before the work.
    started = time.monotonic()
    pictures = generate_images(pipe, scenes.captions, call)
    seconds = time.monotonic() - started
    verdicts = _judge(pictures, scenes.captions, call.batch_size)
    found = score(scenes.captions, verdicts)
    ceiling = None if pipe.vae is None else ceiling_of(pipe.vae, scenes, call.batch_size)
    results = {
        "suite": "shapes",
        "protocol": protocol,
        "score": found.to_dict(),
        "ceiling": None if ceiling is None else ceiling.to_dict(),
        "failures": [
            {"image": number, "prompt": prompt, "failed": list(verdict.failed)}
            for number, (prompt, verdict) in enumerate(zip(scenes.captions, verdicts, strict=True))
            if not verdict.passed
        ],
        "seconds": {"generation": round(seconds, 1)},
    }
    page = _page(pictures, scenes.captions, verdicts)
    return Report(results, _table(protocol, found, ceiling), {"shapes": page})


def _judge(pictures: Sequence[Image.Image], captions: Sequence[str], batch_size: int) -> list[Verdict]:
    def judge(numbers: Sequence[int]) -> list[Verdict]:
        return [check(pictures[number], captions[number]) for number in numbers]

    return spread(judge, range(len(pictures)), batch_size, "checking")


def ceiling_of(vae: SDAutoencoderKL, scenes: TruthScenes, batch_size: int) -> Score:
    """Score what an autoencoder gives back of the real pictures: no model that makes its latents can hope for more.

    Args:
        vae (`SDAutoencoderKL`): The autoencoder; through the mode of its posterior.
        scenes (`TruthScenes`): The scenes.
        batch_size (`int`): Pictures that are reconstructed at a time.

    Returns:
        `Score`: of the reconstructions, in 8 bits, with the captions of their scenes.
    """

    def judge(numbers: Sequence[int]) -> list[Verdict]:
        originals = torch.stack([to_pixel_values(scenes.image(number)) for number in numbers])
        decoded = [to_picture(picture) for picture in reconstruct(vae, originals)]
        return [check(picture, scenes.captions[number]) for picture, number in zip(decoded, numbers, strict=True)]

    return score(scenes.captions, spread(judge, range(len(scenes)), batch_size, "reconstructing"))


def _table(protocol: dict[str, Any], found: Score, ceiling: Score | None) -> str:
    lines = [
        f"{protocol['num_prompts']} prompts of each split (series of scenes {protocol['series_of_scenes']})",
        sampling_line(protocol),
        "",
        "generated pictures, in percent with their 95% intervals:",
        found.table(),
        "",
    ]
    if ceiling is None:
        return "\n".join([*lines, "ceiling: none, as the model has no autoencoder"])
    return "\n".join([*lines, "ceiling, real pictures of these scenes through the autoencoder:", ceiling.table()])


def _page(pictures: Sequence[Image.Image], captions: Sequence[str], verdicts: Sequence[Verdict]) -> Image.Image:
    """Draw the first that pass and the first that fail, of each split."""
    num_prompts = len(captions) // len(SPLITS)
    sections = []
    for number, split in enumerate(SPLITS):
        of_split = range(number * num_prompts, (number + 1) * num_prompts)
        prints = [Print(pictures[i], captions[i], ", ".join(verdicts[i].failed)) for i in of_split]
        passed = [item for item in prints if not item.remark]
        failed = [item for item in prints if item.remark]
        sections.append((f"{split}: {len(passed)} of {num_prompts} pass", passed[:_SHOWN_PASSED]))
        if failed:
            sections.append((f"{split}: {len(failed)} of {num_prompts} fail", failed[:_SHOWN_FAILED]))
    return contact_sheet(sections)
