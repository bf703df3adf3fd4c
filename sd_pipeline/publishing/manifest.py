"""The SHA-256 of every file of weights in `model_index.json`: a flipped bit loads without an error otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import sha_fileobj

from sd_pipeline.publishing.repository_files import RepositoryError, read_json
from sd_pipeline.publishing.stock_layout import FACTS_KEY, MANIFEST_KEY

INDEX_FILE = "model_index.json"


def write_manifest(folder: Path) -> None:
    """Write the digests of all safetensors files of a repository into its `model_index.json`.

    Args:
        folder (`Path`): Of the repository. Nothing else in it changes.

    Raises:
        RepositoryError: If `model_index.json` is missing or damaged.
    """
    index = read_json(folder / INDEX_FILE)
    paths = sorted(folder.glob("*/*.safetensors"))
    if paths:
        digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}
        index[FACTS_KEY] = {**index.get(FACTS_KEY, {}), MANIFEST_KEY: digests}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / INDEX_FILE).write_text(text, encoding="utf-8")


def check_manifest(folder: Path, index: Mapping[str, Any], paths: Iterable[Path]) -> None:
    """Compare files with their digests. Files that have none, as those of other tools, are let through.

    Args:
        folder (`Path`): Of the repository.
        index (`Mapping[str, Any]`): What is in its `model_index.json`.
        paths (iterable of `Path`): The files that will be loaded.

    Raises:
        RepositoryError: If one is not the file that was published.
    """
    digests = index.get(FACTS_KEY, {}).get(MANIFEST_KEY, {})
    place = f"{folder / INDEX_FILE}: `{FACTS_KEY}.{MANIFEST_KEY}`"
    if not isinstance(digests, dict):
        raise RepositoryError(f"{place} is {digests!r}; allowed: digests by file")
    for name, digest in digests.items():
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise RepositoryError(f"{place} has {digest!r} for {name!r}; allowed: 64 hexadecimal digits")
    for path in paths:
        expected = digests.get(path.relative_to(folder).as_posix())
        if expected is not None and file_digest(path) != expected:
            raise RepositoryError(
                f"{path} is damaged or was exchanged: its SHA-256 is not the one in {INDEX_FILE} "
                f"(`{FACTS_KEY}.{MANIFEST_KEY}`, to be removed if the file is meant to differ)"
            )


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file.

    Args:
        path (`Path`): The file.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return sha_fileobj(file).hex()
