"""The search for secrets finds them wherever they hide, and nothing where there is nothing."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from tests.secrets import leaks, leaks_of_folder

SECRET = "hf_AbCdEfGhIjKlMnOp"


@pytest.mark.parametrize("before", ["", "1", "12", "123"])
def test_forms_of_a_text(before):
    for content in (
        f"{before}{SECRET}".encode(),
        base64.b64encode(f"{before}{SECRET} and more".encode()),
        json.dumps({"token": f"{before}{SECRET}"}).encode(),
    ):
        assert leaks(b"something " + content, [SECRET]) == [SECRET]
    assert leaks(b"hf_AbCdEfGhIjKlMnO", [SECRET]) == []


def test_paths():
    home = f"{Path.home()}/run"
    assert leaks(quote(home, safe="").encode(), [home]) != []
    assert leaks(json.dumps(home).replace("/", "\\/").encode(), [home]) != []
    assert leaks(b"outputs/shapes https://huggingface.co/models", []) == []
    assert leaks(b'{"folder": "/scratch/run"}', []) == ["/scratch/r"]


def test_files(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", SECRET, zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png", pnginfo=text)
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"by": SECRET})
    with sqlite3.connect(tmp_path / "runs.db") as database:
        database.execute("CREATE TABLE runs (config TEXT)")
        # Longer than a page: the cell is in pieces.
        database.execute("INSERT INTO runs VALUES (?)", (SECRET * 2000,))
    database.close()
    os.symlink(f"{SECRET}/elsewhere", tmp_path / "link")
    (tmp_path / SECRET).mkdir()
    (tmp_path / ".hidden").write_text(SECRET)
    (tmp_path / "honest.txt").write_text("nothing")
    found = leaks_of_folder(tmp_path, [SECRET])
    assert sorted(found) == sorted([".hidden", SECRET, "link", "model.safetensors", "picture.png", "runs.db"])
