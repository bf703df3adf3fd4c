"""Weights in half precision beside those in float32, as `variant="fp16"` loads them in diffusers and here."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sd_pipeline.publishing.manifest import write_manifest
from sd_pipeline.publishing.repository_files import RepositoryError, read_json, weight_files
from sd_pipeline.publishing.repository_trust import INDEX_FILE

COMPONENTS = ("unet", "vae", "text_encoder", "safety_checker")


def add_fp16_variant(folder: Path) -> list[Path]:
    """Write the weights of a finished repository in float16 too, beside those that are there.

    `from_pretrained(folder, variant="fp16", dtype=torch.float16)` then reads half as many bytes.

    Args:
        folder (`Path`): Of a pipeline, whose models each have one file of weights. Older variants are replaced.

    Returns:
        `list[Path]`: The files that were written.

    Raises:
        RepositoryError: If a weight is too large for float16, or a model has its weights in several files. Nothing has
            been written then.
    """
    read_json(folder / INDEX_FILE)
    models = {name: _single_file(folder / name) for name in COMPONENTS if (folder / name).is_dir()}
    halves = {_variant_path(path): _half(path) for path in models.values()}
    for path, weights in halves.items():
        staged = path.with_name(f".{path.name}.new")
        try:
            save_file(weights, staged, metadata={"format": "pt"})
            # safetensors does not let others read its files.
            staged.chmod((folder / INDEX_FILE).stat().st_mode & 0o777)
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
    write_manifest(folder)
    return sorted(halves)


def _single_file(folder: Path) -> Path:
    paths = weight_files(folder, read_json(folder / "config.json"))
    if len(paths) > 1:
        raise RepositoryError(f"{folder} has its weights in {len(paths)} files; a variant is written of one")
    return paths[0]


def _variant_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.fp16{path.suffix}")


def _half(path: Path) -> dict[str, torch.Tensor]:
    weights = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            tensor = file.get_tensor(name)
            weights[name] = tensor.half() if tensor.is_floating_point() else tensor
            if not torch.isfinite(weights[name]).all():
                largest = torch.finfo(torch.float16).max
                raise RepositoryError(f"{path}: the weight {name!r} is beyond {largest:g}, the largest of float16")
    return weights
