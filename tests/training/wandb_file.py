"""Reads what wandb wrote offline. Its own reader is not written in Python.

The file is a log as LevelDB writes it: blocks of 32 KiB, in them pieces of records, each after 4 bytes of checksum,
2 of length and 1 of kind (1 whole, 2 first, 3 middle, 4 last); the first block begins with 7 bytes of wandb's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768


def records(file: Path) -> list[Any]:
    """Return the records of a `.wandb` file."""
    content = file.read_bytes()
    assert content[:4] == b":W&B"
    position, record, found = 7, b"", []
    while position < len(content):
        if _BLOCK - position % _BLOCK < 7:
            position += _BLOCK - position % _BLOCK
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            found.append(wandb_internal_pb2.Record.FromString(record))
            record = b""
    return found


def history(file: Path) -> list[dict[str, Any]]:
    """Return the logged rows of a `.wandb` file."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(file)
        if record.WhichOneof("record_type") == "history"
    ]


def config(file: Path) -> dict[str, Any]:
    """Return the configuration in a `.wandb` file."""
    (run,) = [record.run for record in records(file) if record.WhichOneof("record_type") == "run"]
    return {item.key: json.loads(item.value_json) for item in run.config.update}
