"""Fingerprints differ where images or encoders differ, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch

from tests.components import tiny_vae
from tests.training.data.image_folders import write_folder, write_image, write_metadata
from tests.training.data.test_stored_datasets import encoded
from tests.training.runs import ROOT, TIMEOUT, environment
from training.data.dataset_rows import DatasetRowsSource
from training.data.digits import DigitsSource
from training.data.fingerprints import autoencoder_fingerprint, digest
from training.data.image_folder import ImageFolderSource
from training.data.image_source import SourceSubset
from training.data.shapes import ShapesSource


def touch(path: Path) -> None:
    """Move the time of the last change by a nanosecond: no reading of the content would tell."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert path.stat().st_mtime_ns != status.st_mtime_ns


def test_where_one_part_ends_counts() -> None:
    assert len({digest(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], [])}) == 5
    assert digest(["a", 1]) == digest(iter(["a", "1"]))


def test_generated_images_are_told_apart_by_their_arguments() -> None:
    pair, other = ("star", "red"), ("ring", "green")
    sources = [
        *(DigitsSource(split) for split in ("train", "validation")),
        ShapesSource(num_samples=3, size=16),
        ShapesSource(num_samples=4, size=16),
        ShapesSource(num_samples=3, size=17),
        ShapesSource(num_samples=3, size=16, seed=1),
        ShapesSource("pair", 3, 16),
        *(ShapesSource("pair", 3, 16, pairs=pairs) for pairs in ([pair], [other], [pair, other])),
    ]
    assert len({source.fingerprint() for source in sources}) == len(sources)
    again = ShapesSource("pair", 3, 16, pairs=[other, pair])
    assert again.fingerprint() == sources[-1].fingerprint()


def test_a_subset_is_told_by_its_indices_in_order() -> None:
    digits = DigitsSource()
    choices = ([0, 1], [1, 0], [0, 1, 2], [2])
    assert len({SourceSubset(digits, choice).fingerprint() for choice in choices}) == len(choices)
    assert SourceSubset(digits, range(2)).fingerprint() == SourceSubset(DigitsSource(), [0, 1]).fingerprint()
    assert SourceSubset(DigitsSource("validation"), [0, 1]).fingerprint() != SourceSubset(digits, [0, 1]).fingerprint()


def test_a_folder_may_move_and_get_other_captions(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "here", 3)
    before = ImageFolderSource(folder).fingerprint()
    write_metadata(folder, [{"file_name": f"{number:02d}.png", "text": "another caption"} for number in range(3)])
    folder = folder.rename(tmp_path / "there")
    assert ImageFolderSource(folder).fingerprint() == before


def test_what_changes_in_a_folder_shows(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", 3)
    seen = {ImageFolderSource(folder).fingerprint()}
    touch(folder / "01.png")
    seen.add(ImageFolderSource(folder).fingerprint())
    write_image(folder / "01.png", 1, size=(41, 30))
    seen.add(ImageFolderSource(folder).fingerprint())
    names = ["02.png", "01.png", "00.png"]
    write_metadata(folder, [{"file_name": name, "text": "a"} for name in names])
    seen.add(ImageFolderSource(folder).fingerprint())
    (folder / "01.png").unlink()
    seen.add(ImageFolderSource(folder).fingerprint())
    assert len(seen) == 5


def table(**columns: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": ["a", "b"], **columns})


def test_rows_are_told_by_content_and_column() -> None:
    images = [{"bytes": encoded(number), "path": None} for number in range(3)]
    rows = table(first=images[:2], second=images[1:])
    sources = [DatasetRowsSource(rows, "rows", column) for column in ("first", "second")]
    sources += [DatasetRowsSource(part, "rows", "first") for part in (rows.select([1, 0]), rows.select([0]))]
    sources.append(DatasetRowsSource(table(first=images[1:], second=images[:2]), "rows", "first"))
    assert len({source.fingerprint() for source in sources}) == len(sources)
    assert DatasetRowsSource(rows, "other name", "first").fingerprint() == sources[0].fingerprint()


def test_files_that_rows_only_name_count(tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / f"{number}.png", number)
    rows = table(image=[str(tmp_path / f"{number}.png") for number in range(2)])
    before = DatasetRowsSource(rows, "rows").fingerprint()
    assert DatasetRowsSource(rows, "rows").fingerprint() == before
    touch(tmp_path / "1.png")
    assert DatasetRowsSource(rows, "rows").fingerprint() != before


FINGERPRINTS = """
import sys
from training.data.shapes import ShapesSource
from training.data.stored_datasets import find_splits
for folder in sys.argv[1:]:
    print(find_splits(folder)["train"]().fingerprint())
print(ShapesSource("pair", 3, 16).fingerprint())
"""


@pytest.mark.slow
def test_fingerprints_are_the_same_in_every_process(tmp_path: Path) -> None:
    rows = table(image=[{"bytes": encoded(number), "path": None} for number in range(2)])
    rows = rows.cast_column("image", datasets.Image())
    rows.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "parquet").mkdir()
    rows.to_parquet(str(tmp_path / "parquet" / "train.parquet"))
    folders = [str(tmp_path / "saved"), str(tmp_path / "parquet"), str(write_folder(tmp_path / "images"))]
    printed = []
    for number in range(2):
        # Another seed of Python's hashes, and another cache of `datasets`, as on another machine.
        variables = {"PYTHONHASHSEED": str(number), "HF_DATASETS_CACHE": str(tmp_path / f"cache {number}")}
        command = [sys.executable, "-c", FINGERPRINTS, *folders]
        printed.append(
            subprocess.run(
                command,
                env=environment(PYTHONPATH=str(ROOT), **variables),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=TIMEOUT,
            ).stdout
        )
    assert printed[0] == printed[1]
    assert len(set(printed[0].splitlines())) == 4


def test_autoencoders_are_told_by_weights_and_encoder() -> None:
    fingerprint = autoencoder_fingerprint(tiny_vae())
    others = [tiny_vae(seed=2), tiny_vae(act_fn="gelu"), tiny_vae(posterior="isotropic"), tiny_vae().half()]
    one_bit = tiny_vae()
    with torch.no_grad():
        weight = one_bit.encoder.conv_in.weight
        weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    tiled = tiny_vae()
    tiled.enable_tiling()
    others += [one_bit, tiled]
    assert len({fingerprint, *map(autoencoder_fingerprint, others)}) == len(others) + 1


def test_what_comes_after_the_latents_does_not_count() -> None:
    assert autoencoder_fingerprint(tiny_vae(scaling_factor=0.2)) == autoencoder_fingerprint(tiny_vae())
