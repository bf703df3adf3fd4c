"""Which files may be published: an allow-list of kinds."""

from __future__ import annotations

from pathlib import Path

from sd_pipeline.publishing.repository_check import RepositoryError

_KINDS = (".safetensors", ".json", ".txt", ".md", ".png")


def publishable_files(folder: Path) -> list[Path]:
    """List the files of a model that is to be published.

    Args:
        folder (`Path`): Where they are.

    Returns:
        `list[Path]`: Relative to the folder.

    Raises:
        RepositoryError: If there is none, or one of another kind; names it.
    """
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    if not files:
        raise RepositoryError(f"{folder} holds no files")
    for path in files:
        if path.suffix not in _KINDS:
            raise RepositoryError(f"{folder / path} is not published: allowed are {', '.join(_KINDS)}")
    return files
