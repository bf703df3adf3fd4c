"""Every configuration in `configs/` parses and describes models that fit together."""

from __future__ import annotations

import dataclasses

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from tests.source_files import ROOT
from training.config import ConfigError
from training.config_io import check_resumable, config_to_yaml, parse_config, read_yaml
from training.tasks.model_check import check_models

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LAUNCHERS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))


def test_there_is_nothing_else():
    assert CONFIGS
    assert LAUNCHERS
    assert {*(ROOT / "configs").iterdir()} == {*CONFIGS, ROOT / "configs" / "accelerate"}


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda path: path.stem)
def test_accelerate_reads_it_and_it_says_what_was_tested(file):
    """The precision is the run's own, so none is set here."""
    launcher = load_config_from_file(str(file))
    assert launcher.mixed_precision == "no"
    text = file.read_text(encoding="utf-8")
    assert f"accelerate launch --config_file configs/accelerate/{file.name}" in text
    assert "# tested: " in text


@pytest.mark.parametrize("file", CONFIGS, ids=lambda path: path.stem)
def test_it_describes_models_that_fit(file, tmp_path):
    config = parse_config(["--config", str(file)])
    check_models(config)
    (tmp_path / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    check_resumable(read_yaml(tmp_path / "config.yaml"), config)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda path: path.stem)
def test_it_says_how_to_run_it_and_writes_into_outputs(file):
    """Each begins with the command, the hardware and the result to expect, and has a folder of its own."""
    header = "".join(line for line in file.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    assert f"training/train.py --config configs/{file.name}" in header
    for word in ("hardware", "result"):
        assert word in header
    assert parse_config(["--config", str(file)]).output_dir == f"outputs/{file.stem}"


def test_the_defaults_are_a_run():
    config = parse_config(["--data.dataset=shapes", "--output_dir=out"])
    check_models(config)
    with pytest.raises(ConfigError, match=r"data\.resolution = 62"):
        check_models(dataclasses.replace(config, data=dataclasses.replace(config.data, resolution=62)))
