"""What the page tells about its model: its size, what its training cost, and prompts to try, from the model card."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from torch import nn

from sd_pipeline.pipelines.pipeline_base import SDBasePipeline
from sd_pipeline.pretrained_models import packaged_model

NO_COST = "what its training cost is not told by its card"

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_CONFIG = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LABELS = ("hardware", "time", "training time", "energy", "co2", "emissions", "carbon")
_LABELLED = re.compile(r"^[-*| ]*\**([A-Za-z][A-Za-z0-9 ]{1,24}?)\**\s*(?::\**|\|)\s*(.+?)[ |]*$")
_DURATION = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d)")


@dataclass(frozen=True)
class ModelFacts:
    """A model in a few words.

    Args:
        name (`str`): What it was loaded as; of a folder the last part.
        num_parameters (`int`): Of all its networks.
        size (`tuple[int, int]`, *optional*): Height and width of its pictures, in pixels.
        cost (`tuple[str, ...]`): What the card says about hardware, time, energy and emissions, a phrase each.
        example_prompts (`tuple[str, ...]`): To try.
    """

    name: str
    num_parameters: int
    size: tuple[int, int] | None
    cost: tuple[str, ...]
    example_prompts: tuple[str, ...]

    @classmethod
    def of(cls, model: str, pipeline: SDBasePipeline) -> ModelFacts:
        """Collect them.

        Args:
            model (`str`): What the pipeline was loaded from.
            pipeline ([`SDPipeline`]): The model.

        Returns:
            `ModelFacts`: What is known.
        """
        networks = [one for one in pipeline.components.values() if isinstance(one, nn.Module)]
        card = read_card(model)
        height, width = pipeline.size_of_training()
        return cls(
            name=Path(model).name if os.path.isdir(model) or packaged_model(model) else model,
            num_parameters=sum(parameter.numel() for network in networks for parameter in network.parameters()),
            size=(height, width) if height and width else None,
            cost=training_cost(card),
            example_prompts=example_prompts(card) if pipeline.takes_prompts else (),
        )

    def summary(self) -> str:
        """Say it in one line of Markdown.

        Returns:
            `str`: Name, parameters, size and cost.
        """
        parts = [f"**{self.name}**", f"{self.num_parameters / 1e6:.1f} million parameters"]
        if self.size is not None:
            parts.append(f"pictures of {self.size[1]}x{self.size[0]} pixels")
        return " · ".join([*parts, *(self.cost or (NO_COST,))])


def read_card(model: str) -> str:
    """Read the card of a model.

    Args:
        model (`str`): As in `SDPipeline.from_pretrained`.

    Returns:
        `str`: Its `README.md`; empty if there is none, or the Hub does not send it.
    """
    folder = Path(model) if os.path.isdir(model) else packaged_model(model)
    try:
        path = folder / "README.md" if folder is not None else Path(hf_hub_download(model, "README.md"))
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def training_cost(card: str) -> tuple[str, ...]:
    """Find what a card says about the cost of the training.

    That is `co2_eq_emissions` of its metadata (in grams, as the Hub defines it), lines and rows of two cells such as
    `Hardware: two CPU cores` or `| energy | 0.2 kWh |`, and the sum of the column `time` of a table.

    Args:
        card (`str`): Markdown with YAML front matter.

    Returns:
        `tuple[str, ...]`: A phrase for each fact; none if nothing is told.
    """
    text = _FRONT_MATTER.sub("", _CONFIG.sub("", card), count=1)
    facts: dict[str, str] = {}
    for line in text.splitlines():
        match = _LABELLED.match(line)
        if match and match[1].lower() in _LABELS and "|" not in match[2]:
            # The first sentence: what follows says how it was found out.
            facts.setdefault(match[1].lower(), re.split(r"\.\s", match[2])[0].rstrip("."))
    seconds = sum(_seconds(cell) for cell in _column(text, "time"))
    if seconds:
        facts.setdefault("time", _hours(seconds))
    emissions = _metadata(card).get("co2_eq_emissions")
    grams = emissions.get("emissions") if isinstance(emissions, Mapping) else emissions
    if isinstance(grams, (int, float)):
        facts.setdefault("co2", f"{grams:g} g")
    names = {"time": "training time", "co2": "CO2"}
    return tuple(f"{names.get(label, label)}: {fact}" for label, fact in facts.items())


def example_prompts(card: str) -> tuple[str, ...]:
    """Find prompts that suit a model.

    Args:
        card (`str`): Markdown with YAML front matter.

    Returns:
        `tuple[str, ...]`: Those of `widget` in the metadata; else the validation prompts of the configuration; else
        the one of the first call that is shown.
    """
    widget = _metadata(card).get("widget")
    entries = widget if isinstance(widget, list) else []
    found = [entry["text"] for entry in entries if isinstance(entry, Mapping) and isinstance(entry.get("text"), str)]
    for block in _CONFIG.findall(card):
        evaluation = _mapping(block).get("evaluation")
        prompts = evaluation.get("validation_prompts") if isinstance(evaluation, Mapping) else None
        found = found or [prompt for prompt in prompts or [] if isinstance(prompt, str)]
    call = re.search(r'pipe\(\s*(?:prompt=)?"([^"\n]+)"', card)
    return tuple(found or ([call[1]] if call else []))


def _metadata(card: str) -> Mapping[str, Any]:
    match = _FRONT_MATTER.match(card)
    return _mapping(match[1]) if match else {}


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, Mapping) else {}


def _column(text: str, name: str) -> Iterator[str]:
    """Yield the cells below a heading of a table."""
    index = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if index is None:
            index = cells.index(name) if name in cells[1:] else None
        elif index < len(cells):
            yield cells[index]
        else:
            index = None


def _seconds(cell: str) -> int:
    match = _DURATION.fullmatch(cell)
    if match is None:
        return 0
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _hours(seconds: int) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
