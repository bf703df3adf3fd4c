"""A model that comes with the package is found by its name: from any folder, and before anybody asks the Hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sd_pipeline import SDPipeline, cli, pretrained_models
from sd_pipeline.pretrained_models import DEFAULT_MODEL, packaged_model
from tests.components import tiny_components
from tests.source_files import ROOT


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("installation")
    recommended = {"num_inference_steps": 2, "guidance_scale": 3.0}
    SDPipeline(**tiny_components(), recommended_call=recommended).save_pretrained(place / DEFAULT_MODEL)
    return place


@pytest.fixture
def installed(stand_in, tmp_path, monkeypatch) -> Path:
    """Work in an empty folder, with an installation that holds the stand-in."""
    monkeypatch.setattr(pretrained_models, "_PLACES", (tmp_path / "nothing", stand_in))
    monkeypatch.chdir(tmp_path)
    return stand_in / DEFAULT_MODEL


def test_it_is_sought_beside_the_package_and_at_the_top_of_a_checkout():
    assert pretrained_models._PLACES == (ROOT / "sd_pipeline", ROOT)


@pytest.mark.parametrize("name", [DEFAULT_MODEL, DEFAULT_MODEL + "/", Path(DEFAULT_MODEL)])
def test_name_of_a_packaged_model(installed, name):
    assert packaged_model(name) == installed


@pytest.mark.parametrize("name", ["pretrained", "pretrained/other", "somebody/shapes-64", "../pretrained/shapes-64"])
def test_names_of_other_models(installed, name):
    assert packaged_model(name) is None


def test_model_that_the_installation_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained_models, "_PLACES", (tmp_path, tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    for load in (packaged_model, SDPipeline.from_pretrained, SDPipeline.load_config):
        with pytest.raises(FileNotFoundError, match=f"^{DEFAULT_MODEL} is not in this installation") as error:
            load(DEFAULT_MODEL)
        assert "\n" not in str(error.value)


def test_it_loads_from_any_folder(installed):
    pipe = SDPipeline.from_pretrained(DEFAULT_MODEL)
    assert pipe.config["recommended_call"] == {"num_inference_steps": 2, "guidance_scale": 3.0}
    assert pipe.name_or_path == DEFAULT_MODEL, "where the package is installed is nobody's business"
    assert SDPipeline.load_config(DEFAULT_MODEL)["recommended_call"]["num_inference_steps"] == 2


def test_a_folder_of_that_name_wins(installed, tmp_path):
    own = Path(shutil.copytree(installed, tmp_path / DEFAULT_MODEL))
    index = own / "model_index.json"
    index.write_text(index.read_text().replace('"num_inference_steps": 2', '"num_inference_steps": 7'))
    assert SDPipeline.load_config(DEFAULT_MODEL)["recommended_call"]["num_inference_steps"] == 7
    assert SDPipeline.from_pretrained(DEFAULT_MODEL).config["recommended_call"]["num_inference_steps"] == 7


def test_the_command_line_takes_it_by_default(installed, tmp_path):
    arguments = ["generate", "--prompt", "a red circle", "--seed", "0", "--device", "cpu", "--output"]
    assert cli.main([*arguments, "default.png"]) == 0
    assert cli.main([*arguments, "named.png", "--model", str(installed)]) == 0
    assert (tmp_path / "default.png").read_bytes() == (tmp_path / "named.png").read_bytes()


def test_the_command_line_says_that_it_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained_models, "_PLACES", (tmp_path,))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "--prompt", "a red circle", "--output", "out.png"]) == cli.BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sd-pipeline: {DEFAULT_MODEL} is not in this installation of sd_pipeline")
