"""The samples of a tar file as webdataset groups them: where each one's image lies, and its caption."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from training.data.encoded_images import caption_problem
from training.data.image_folder import IMAGE_SUFFIXES

_TEXT_EXTENSIONS = ("txt", "text", "caption")
# A name up to the first dot of its last part is the key of a sample, the rest tells what the member is.
_MEMBER = re.compile(r"((?:.*/|)[^./][^./]*)[.]([^/]+)")


@dataclass(frozen=True)
class IndexedSample:
    """What the index holds of one sample.

    Args:
        name: Names it within its shard.
        position: Where its image lies: the first byte (tar), or the row (Parquet).
        size: Bytes of the image (tar).
        captions: Its captions; empty where it has none that can be used.
        problem: Why it cannot be used, as far as the index tells.
    """

    name: str
    position: int
    size: int = 0
    captions: list[str] = field(default_factory=list)
    problem: str | None = None


def list_tar_samples(file: BinaryIO, image_column: str, caption_column: str) -> Iterator[IndexedSample]:
    """Read the headers and captions of a tar file, in one pass.

    Neighbouring members with one key, the name up to the first dot of its last part, are a sample. Its image is the
    member whose extension is `image_column`, or, by default, the only one with the extension of an image. Its caption
    is the member whose extension is `caption_column`, or that key of the member `json`, or the member `txt`, `text` or
    `caption`, whichever is there first.

    Args:
        file (file object): The tar file.
        image_column (`str`): Extension of the images; `"image"` takes any that is known.
        caption_column (`str`): Extension, or key in the JSON member, of the captions.

    Yields:
        `IndexedSample`: the samples in their order, unusable ones too.

    Raises:
        tarfile.TarError: If the file is no plain tar file, or is cut.
    """
    key, members, texts = "", dict[str, tarfile.TarInfo](), dict[str, bytes]()
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            parts = _MEMBER.fullmatch(member.name)
            if parts is None or not member.isreg():
                continue
            extension = parts[2].lower()
            if parts[1] != key or extension in members:
                if members:
                    yield _sample(key, members, texts, image_column.lower(), caption_column)
                key, members, texts = parts[1], {}, {}
            members[extension] = member
            if extension in (caption_column.lower(), "json", *_TEXT_EXTENSIONS):
                content = archive.extractfile(member)
                texts[extension] = b"" if content is None else content.read()
        if members:
            yield _sample(key, members, texts, image_column.lower(), caption_column)
        _check_end(file, archive.offset)


def _check_end(file: BinaryIO, end: int) -> None:
    """Refuse what `tarfile` takes for the end: a cut or damaged header, and one file appended to another."""
    file.seek(end)
    while block := file.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"no member begins at byte {end}, though the file goes on")


def _sample(
    key: str, members: dict[str, tarfile.TarInfo], texts: dict[str, bytes], image_column: str, caption_column: str
) -> IndexedSample:
    if image_column == "image":
        images = [extension for extension in members if f".{extension}" in IMAGE_SUFFIXES]
    else:
        images = [extension for extension in members if extension == image_column]
    if not images:
        wanted = "" if image_column == "image" else f" {image_column!r} (data.image_column)"
        return IndexedSample(key, 0, problem=f"it has no image{wanted}; it has: {', '.join(members)}")
    if len(images) > 1:
        several = f"it has {len(images)} images; allowed: data.image_column names one of {', '.join(images)}"
        return IndexedSample(key, 0, problem=several)
    image = members[images[0]]
    captions, problem = _captions(texts, caption_column)
    return IndexedSample(f"{key}.{images[0]}", image.offset_data, image.size, captions, problem)


def _captions(texts: dict[str, bytes], caption_column: str) -> tuple[list[str], str | None]:
    extension = caption_column.lower()
    reason = "it has no caption"
    try:
        if extension in texts and extension != "json":
            return _usable(texts[extension].decode())
        if "json" in texts:
            fields = json.loads(texts["json"])
            if isinstance(fields, dict) and caption_column in fields:
                return _usable(fields[caption_column])
            known = ", ".join(fields) if isinstance(fields, dict) else "no object"
            reason = f"it has no caption {caption_column!r} (data.caption_column); its json has: {known}"
        for extension in _TEXT_EXTENSIONS:
            if extension in texts:
                return _usable(texts[extension].decode())
    except UnicodeDecodeError:
        return [], "its caption is not UTF-8"
    except json.JSONDecodeError as error:
        return [], f"its json cannot be read ({error.msg} at column {error.colno})"
    return [], reason


def _usable(caption: object) -> tuple[list[str], str | None]:
    if isinstance(caption, str):
        caption = caption.strip()
    return usable_captions(caption)


def usable_captions(caption: object) -> tuple[list[str], str | None]:
    """Make a list of a caption, or tell what is wrong with it."""
    problem = caption_problem(caption)
    if problem is not None:
        return [], problem
    return (caption, None) if isinstance(caption, list) else ([str(caption)], None)
