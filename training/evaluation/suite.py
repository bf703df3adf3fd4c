"""What every suite of measurements starts from and what it hands back: how it generates, and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from sd_pipeline.pipelines.pipeline_base import SDBasePipeline

_IMAGES_OF_A_SEED = 1_000_000
_LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Call:
    """How a suite generates. The same call gives the same images to the bit, however many processes share the work.

    Args:
        num_inference_steps (`int`, *optional*): Steps from noise to image; by default as the model recommends.
        guidance_scale (`float`, *optional*): How closely prompts are followed; by default as the model recommends.
        eta (`float`, *optional*): Share of DDPM's noise that DDIM adds; by default as the model recommends.
        seed (`int`, defaults to 0): Names the noise of all images, and what else a suite draws; two seeds share none.
        batch_size (`int`, defaults to 25): Images made at a time.

    Raises:
        ValueError: If the seed or the batch size is out of range.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    eta: float | None = None
    seed: int = 0
    batch_size: int = 25

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise ValueError(f"--seed {self.seed}: allowed: 0 to {_LARGEST_SEED}")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size {self.batch_size}: allowed: at least 1")

    def generator(self, number: int) -> torch.Generator:
        """Make the source of all noise of one image: seeded with seed * 1,000,000 + number, on the CPU."""
        return torch.Generator().manual_seed(self.seed * _IMAGES_OF_A_SEED + number)

    def protocol(self, pipe: SDBasePipeline) -> dict[str, Any]:
        """Say how this call generates with a pipeline, where it leaves that to the model too.

        Args:
            pipe (`SDBasePipeline`): The pipeline, of any task.

        Returns:
            `dict[str, Any]`: `width`, `height`, `scheduler`, `num_inference_steps`, `guidance_scale`,
            `guidance_rescale`, `eta`, `seed`, `batch_size` and `dtype`, as JSON can hold them.

        Raises:
            ValueError: If a number of the call is impossible, the model takes no prompts, or its parts do not fit.
        """
        if not (pipe.takes_prompts and pipe.has_text_encoder):
            raise ValueError(f"{pipe.name_or_path}: takes no prompts as text; allowed: text-to-image models")
        pipe.check_components()
        numbers = pipe.fill_in_recommended(
            num_inference_steps=self.num_inference_steps, guidance_scale=self.guidance_scale, eta=self.eta
        )
        *_, height, width = pipe.latents_shape(1, None, None)
        return {
            "width": width * pipe.vae_scale_factor,
            "height": height * pipe.vae_scale_factor,
            "scheduler": type(pipe.scheduler).__name__,
            **numbers,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "dtype": str(pipe.unet.dtype).removeprefix("torch."),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What a suite found.

    Args:
        results (`dict[str, Any]`):
            What JSON can hold: `"suite"`, its name; `"protocol"`, that of the call and how many prompts of what;
            `"seconds"`, by what took them; and the numbers of the suite.
        table (`str`): The same for a person, several lines, with the protocol.
        pictures (`dict[str, PIL.Image.Image]`): What to look at, by the name of the file without its suffix.
    """

    results: dict[str, Any]
    table: str
    pictures: dict[str, Image.Image] = field(default_factory=dict)


def sampling_line(protocol: Mapping[str, Any]) -> str:
    """Tell a protocol in a line, without which no score is printed.

    Args:
        protocol (`Mapping[str, Any]`): As `Call.protocol` returns it.

    Returns:
        `str`: size, sampler, steps, guidance and seed.
    """
    told = [
        f"{protocol['width']}x{protocol['height']} pixels",
        f"{protocol['scheduler']}, {protocol['num_inference_steps']} steps",
        f"guidance scale {protocol['guidance_scale']:g}",
        *(f"{name.replace('_', ' ')} {protocol[name]:g}" for name in ("guidance_rescale", "eta") if protocol[name]),
        f"seed {protocol['seed']}",
    ]
    return ", ".join(told)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of equal length under each other, as plain text.

    Args:
        rows (sequence of sequences of `str`): The cells.

    Returns:
        `str`: a line a row, the columns two spaces apart.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
