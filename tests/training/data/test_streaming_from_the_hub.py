"""Data sets of the Hub are read where they lie, in pieces, by worker processes too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.data.loopback_hub import COMMIT, loopback_hub
from tests.training.data.shards import write_parquets, write_tars
from tests.training.runs import ROOT

pytestmark = pytest.mark.hub

PROGRAM = """
from torch.utils.data import DataLoader
from training.data.catalogue import load_captioned_images
if __name__ == "__main__":
    dataset = load_captioned_images("train", dataset="me/data", resolution=16, streaming=True)
    print(dataset.source.name(3))
    captions = [c for batch in DataLoader(dataset, batch_size=4, num_workers=2) for c in batch["caption"]]
    print(captions == [f"text {number}" for number in range(12)])
    print([dataset.source.image(number).getpixel((0, 0))[0] for number in range(12)] == list(range(12)))
    print(load_captioned_images("train", dataset="hf://datasets/me/data", resolution=16, streaming=True).captions[:2])
"""


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_data_set_of_the_hub(tmp_path, kind):
    folder = (write_tars if kind == "tar" else write_parquets)(tmp_path / "shards", [5, 7])
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.*")) if p.is_file()}
    with loopback_hub("me/data", {**files, "README.md": b"# Data\n"}) as (address, ranges):
        variables = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"} | variables
        (tmp_path / "program.py").write_text(PROGRAM)
        environment["PYTHONPATH"] = str(ROOT)
        command = [sys.executable, str(tmp_path / "program.py")]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    first = sorted(name for name in files)[0]
    row = "00003.png" if kind == "tar" else "row 3"
    url = f"hf://datasets/me/data@{COMMIT}/{first}: {row}"
    assert run.stdout.splitlines() == [url, "True", "True", "['text 0', 'text 1']"]
    assert ranges
    assert not any(Path(path).suffix in (".tar", ".parquet") for path in (tmp_path / "home").rglob("*"))
