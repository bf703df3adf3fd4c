"""Searches all that a run sent, printed or left behind for what is nobody else's business.

A text is looked for as it is, as JSON, an address and base64 write it, and in what files keep compressed or in pieces:
the text chunks of PNG files, the cells of SQLite databases and the records of wandb.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from tests.loopback_hub.hub import Hub
from tests.source_files import ROOT
from tests.training import wandb_file

ABSOLUTE_PATH = re.compile(rb"/(?:home|root|tmp|usr|var|opt|mnt|srv|work|scratch|Users|private)/[\w.~-]")
PLACES = (f"{Path.home()}/", str(ROOT), sys.prefix, sys.executable)
"""Where the tests run."""


def leaks(content: bytes, private: Iterable[str]) -> list[str]:
    """List what of the private texts is in some bytes, and the beginning of every absolute path."""
    return _private_in(content, private) + sorted({match.decode() for match in ABSOLUTE_PATH.findall(content)})


def leaks_of_folder(folder: Path, private: Iterable[str]) -> dict[str, list[str]]:
    """Search the names, links and contents of all that is in a folder, hidden files too."""
    private, found = tuple(private), {}
    for path in sorted(folder.rglob("*")):
        parts = []
        if path.is_symlink():
            parts.append(str(path.readlink()).encode())
        elif path.is_file():
            parts += [path.read_bytes(), *_unpacked(path)]
        # In pieces, or the end of one would meet the beginning of the next.
        leaked = sorted({leak for part in parts for leak in leaks(part, private)})
        leaked += _private_in(str(path.relative_to(folder)).encode(), private)
        if leaked:
            found[str(path.relative_to(folder))] = leaked
    return found


def leaks_of_hub(hub: Hub, private: Iterable[str]) -> dict[str, list[str]]:
    """Search all that was ever sent to a Hub but the header that proves who asks, and all that it keeps."""
    private, found = tuple(private), {}
    sent = [(f"request {number}", content) for number, content in enumerate(hub.published())]
    for repository in hub.repositories.values():
        sent += [(f"upload {oid}", content) for oid, content in repository.uploads.items()]
        for branch, commits in repository.branches.items():
            for commit in commits:
                sent.append((f"{branch} {commit.oid}", f"{branch} {commit.title} {commit.description}".encode()))
                sent += [(f"{branch} {commit.oid} {path}", content) for path, content in commit.content.items()]
    for where, content in sent:
        leaked = leaks(content, private)
        if leaked:
            found[where] = leaked
    return found


def _private_in(content: bytes, private: Iterable[str]) -> list[str]:
    return [text for text in (*private, *PLACES) if any(form in content for form in _forms(text))]


def _forms(text: str) -> Iterator[bytes]:
    yield text.encode()
    yield json.dumps(text)[1:-1].replace("/", r"\/").encode()
    yield quote(text, safe="").encode()
    # Base64 takes three bytes at once: where the text begins decides what it looks like.
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + text.encode())
        first, last = (0, 2, 3)[offset], len(encoded) // 4 * 4 - 4
        yield encoded[first:last]


def _unpacked(path: Path) -> Iterator[bytes]:
    if path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
            yield repr(picture.info).encode()
    elif path.suffix == ".db":
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            yield "\n".join(database.iterdump()).encode()
    elif path.suffix == ".wandb":
        yield from (record.SerializeToString() for record in wandb_file.records(path))
