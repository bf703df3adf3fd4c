"""The model card of a pipeline: what stands in the README of its repository."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import yaml

from sd_pipeline.publishing.staging import TOKEN


def model_card(
    template: str | os.PathLike,
    *,
    name: str,
    repository: str,
    example_prompt: str | None,
    loads_in_diffusers: bool = True,
    inpaints: bool = False,
    recommended_call: Mapping[str, int | float] | None = None,
    results: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    fields: Mapping[str, str] | None = None,
    base_model: str | None = None,
) -> str:
    """Fill in the template of a model card.

    Args:
        template (`str` or `os.PathLike`): Path of the template, such as `model_cards/pipeline.md`: Markdown with
            `string.Template` placeholders.
        name (`str`): Title of the card.
        repository (`str`):
            What to give to `from_pretrained`: a folder, or a name on the Hub. Of an absolute path the last part is
            told: where things lie on this machine is nobody else's business.
        example_prompt (`str`, *optional*): A prompt that shows what the model can do; `None` for an unconditional one.
        loads_in_diffusers (`bool`, *optional*, defaults to `True`): Whether plain diffusers can generate with it.
        inpaints (`bool`, *optional*, defaults to `False`): Whether its calls take a picture and a mask.
        recommended_call (`Mapping[str, int | float]`, *optional*): Arguments of a call at their best values.
        results (`Mapping[str, Any]`, *optional*): What was measured; a value may be a mapping of its own.
        config (`Mapping[str, Any]`, *optional*):
            The configuration of the run, plain values only. Absolute paths in it are told likewise.
        tags (sequence of `str`, *optional*): Further tags for the Hub.
        metadata (`Mapping[str, Any]`, *optional*):
            What else the Hub is to know, in its words: `license`, `base_model`, `model-index` and others.
        fields (`Mapping[str, str]`, *optional*): Placeholders of this template alone, and what takes their place.
        base_model (`str`, *optional*): The model that the training went on from; `None` if it began with nothing.

    Returns:
        `str`: Markdown with YAML front matter.

    Raises:
        ValueError: If the template asks for something that is not known here.
    """
    call = {**({"prompt": example_prompt} if example_prompt is not None else {}), **(recommended_call or {})}
    prompt = [json.dumps(example_prompt, ensure_ascii=False)] if example_prompt is not None else []
    repository = without_local_paths(repository)
    known = {
        "metadata": _metadata(
            example_prompt is not None,
            tags,
            metadata or {},
        ),
        "name": name,
        "repository": repository,
        "summary": _summary(example_prompt is not None, base_model),
        "call_here": ", ".join(prompt) or "batch_size=1",
        "stock_use": _stock_use(repository, call, inpaints) if loads_in_diffusers else _NOT_IN_STOCK,
        "recommended_call": f"pipe({', '.join([*_arguments(call), *(_PAINTED if inpaints else ())])})",
        "results": _results_table(results or {}),
        "config": yaml.safe_dump(without_local_paths(dict(config or {})), sort_keys=False, allow_unicode=True),
        "base_model": base_model or "",
        **(fields or {}),
    }
    try:
        return Template(Path(template).read_text(encoding="utf-8")).substitute(known)
    except KeyError as error:
        raise ValueError(f"{template}: unknown field {error}; there are {', '.join(known)}") from None
    except ValueError as error:
        raise ValueError(f"{template}: {error} (a dollar sign of its own is written $$)") from None


def without_local_paths(value: Any) -> Any:
    """Keep no token, of a path outside the working directory the last part, of an address no password and no query.

    Args:
        value (`Any`): A string, or mappings and lists that hold some.

    Returns:
        `Any`: The same, of plain `dict` and `list`.
    """
    if isinstance(value, Mapping):
        return {key: without_local_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_local_paths(item) for item in value]
    return _told(value) if isinstance(value, str) else value


def _told(text: str) -> str:
    text = TOKEN.sub("", text)
    if text.startswith("file:") or Path(text).is_absolute() or text.startswith(("~", "..")):
        return Path(text).name
    if re.match(r"\w+://\S+$", text):  # Passwords and signatures are nobody else's business either.
        scheme, address = text.split("://", 1)
        host, slash, path = address.partition("/")
        return f"{scheme}://{host.rsplit('@', 1)[-1]}{slash}{path.split('?')[0]}"
    return text


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table.

    Args:
        header (sequence of `str`): Titles of the columns.
        rows (sequence of sequences of `str`): The cells.

    Returns:
        `str`: Markdown, several lines.
    """
    first, *others = [f"| {' | '.join(cells)} |".replace("\n", " ") for cells in (header, *rows)]
    return "\n".join([first, "|" + "---|" * len(header), *others])


_LONGEST_LINE = 110
_PAINTED = ("image=picture", "mask_image=mask")
_PICTURES_IMPORT = "from PIL import Image\n"
_PICTURES = 'picture, mask = Image.open("picture.png"), Image.open("mask.png")\n'
_NOT_IN_STOCK = "This package is needed: diffusers has no class for all of what this model is made of."


def _metadata(takes_prompts: bool, tags: Sequence[str], further: Mapping[str, Any]) -> str:
    metadata = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image" if takes_prompts else "unconditional-image-generation",
        "tags": ["sd_pipeline", "diffusers", *(["stable-diffusion"] if takes_prompts else []), *tags],
        **further,
    }
    return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)


def _summary(takes_prompts: bool, base_model: str | None) -> str:
    what = "text-to-image diffusion model" if takes_prompts else "unconditional diffusion model of images"
    if base_model is not None:
        return f"A {what}, trained on from `{base_model}` with `sd_pipeline` in the run described below."
    return f"A {what}, trained from nothing with `sd_pipeline`: all of its weights come from the run described below."


def _stock_use(repository: str, call: Mapping[str, Any], inpaints: bool) -> str:
    loader, pictures = ("AutoPipelineForInpainting", _PICTURES) if inpaints else ("DiffusionPipeline", "")
    painted = (*_PAINTED, "height=picture.height", "width=picture.width") if inpaints else ()
    arguments = [*_arguments(call), *painted, "generator=generator"]
    line = f"image = pipe({', '.join(arguments)}).images[0]\n"
    if len(line) > _LONGEST_LINE:
        line = "image = pipe(\n" + "".join(f"    {argument},\n" for argument in arguments) + ").images[0]\n"
    return (
        "With plain diffusers, and nothing of this package:\n\n"
        "```python\n"
        "import torch\n"
        f"from diffusers import {loader}\n"
        f"{_PICTURES_IMPORT if inpaints else ''}\n"
        f'pipe = {loader}.from_pretrained("{repository}")\n'
        f"{pictures}generator = torch.Generator().manual_seed(0)\n{line}```"
    )


def _arguments(call: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in call.items()]


def _results_table(results: Mapping[str, Any]) -> str:
    if not results:
        return "Nothing has been measured yet."
    shown = [(name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in _flatten(results)]
    return markdown_table(["measure", "value"], shown)


def _flatten(results: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in results.items():
        name = f"{prefix}{key}"
        rows += _flatten(value, f"{name}, ") if isinstance(value, Mapping) else [(name, value)]
    return rows
