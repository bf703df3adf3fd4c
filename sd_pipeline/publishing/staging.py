"""What may leave the machine: data of known kinds, without local paths, tokens or weights that are no numbers."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from sd_pipeline.publishing.repository_files import RepositoryError

KINDS = (".safetensors", ".json", ".txt", ".md", ".png")
TEXT_KINDS = (".json", ".txt", ".md")

TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
"""What a token of the Hub looks like."""
# Paths of a machine, not of a web address or of an example: they begin a word.
LOCAL_PATH = re.compile(
    r"(?:(?<![\w.:/-])|file://)(?:/(?:home|Users|root|tmp|private|mnt|scratch|workspace|var/folders)/[\w.~-]|[A-Z]:\\{1,2}Users\\)"
    r"[^\s\"'`<>|)]*"
)


def publishable_files(folder: Path) -> list[Path]:
    """List what is to be published of a folder, after a look into every file.

    Args:
        folder (`Path`): A finished repository.

    Returns:
        `list[Path]`: Its files, relative to the folder, sorted.

    Raises:
        RepositoryError: If there is nothing, a link or a file of another kind than .safetensors, .json, .txt, .md and
            .png; if a text has a token or a path of this machine in it; or if a weight is not finite.
    """
    if not folder.is_dir():
        raise RepositoryError(f"{folder} is not a folder")
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if not paths:
        raise RepositoryError(f"{folder} is empty: there is nothing to publish")
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise RepositoryError(f"{path} is a link or no file: it is not published")
        if path.suffix not in KINDS or path.name.startswith("."):
            raise RepositoryError(f"{path} is not published; allowed: {', '.join(KINDS)}")
    for path in paths:
        if path.suffix in TEXT_KINDS:
            _refuse_secrets(path, folder)
    for path in paths:
        if path.suffix == ".safetensors":
            _refuse_non_finite(path)
    return [path.relative_to(folder) for path in paths]


def find_secret(text: str, folder: Path) -> str | None:
    """Find what a text that is published must not have in it.

    Args:
        text (`str`): Any.
        folder (`Path`): Where it is from: its own path is not published either.

    Returns:
        `str`: What it is, in words that do not repeat a token; `None` if there is nothing.
    """
    token = os.environ.get("HF_TOKEN", "").strip()
    if TOKEN.search(text) or (token and token in text):
        return "a token of the Hub"
    own_paths = {str(Path.home()), str(folder.absolute()), str(folder.resolve())}
    for path in sorted(own_paths, key=len, reverse=True):
        # In JSON, the separators of Windows are doubled.
        written = "|".join(re.escape(one) for one in (path, path.replace("\\", "\\\\")))
        if len(path) > 1 and re.search(rf"(?<![\w.:/-])(?:{written})(?![\w-])", text):
            return f"the local path {path}"
    found = LOCAL_PATH.search(text)
    return f"the local path {found.group()}" if found else None


def _refuse_secrets(path: Path, folder: Path) -> None:
    try:
        secret = find_secret(path.read_text(encoding="utf-8"), folder)
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{path} is no text in UTF-8: it is not published") from error
    if secret is not None:
        raise RepositoryError(f"{path} has {secret} in it: it is not published")


def _refuse_non_finite(path: Path) -> None:
    try:
        with safe_open(path, "pt") as file:
            # One at a time: the model need not fit into memory.
            for name in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise RepositoryError(f"{path}: the weight {name!r} is not finite: it is not published")
            secret = find_secret(" ".join((file.metadata() or {}).values()), path.parent)
    except SafetensorError as error:
        raise RepositoryError(f"{path} is not a safetensors file, or damaged: {error}") from error
    if secret is not None:
        raise RepositoryError(f"{path} has {secret} in its metadata: it is not published")
