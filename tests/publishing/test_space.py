from __future__ import annotations

import re
import sysconfig
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml

from sd_pipeline import SDPipeline, cli
from sd_pipeline.pretrained_models import DEFAULT_MODEL
from sd_pipeline.publishing.space import write_space
from tests.pictures import generator
from tests.source_files import ROOT


def metadata(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_what_is_in_the_folder(tmp_path, capsys):
    assert cli.main(["space", "--output", str(tmp_path / "space"), "--model", "somebody/painter"]) == 0
    space = tmp_path / "space"
    assert capsys.readouterr().out == f"{space}\n"
    made = ["LICENSE", "README.md", "app.py", "requirements.txt", "sd_pipeline"]
    assert sorted(path.name for path in space.iterdir()) == made
    assert metadata(space)["models"] == ["somebody/painter"]
    assert metadata(space)["sdk"] == "gradio"
    assert metadata(space)["sdk_version"] == version("gradio")
    assert metadata(space)["app_file"] == "app.py"
    assert metadata(space)["license"] == "apache-2.0"
    assert (space / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert 'launch("somebody/painter")' in (space / "app.py").read_text()
    sources = {path.relative_to(ROOT) for path in (ROOT / "sd_pipeline").rglob("*.py")}
    assert {path.relative_to(space) for path in space.rglob("*.py")} == {*sources, Path("app.py")}
    assert not list(space.rglob("*.safetensors")), "the model is on the Hub"


def test_the_shipped_model_comes_with_it(tmp_path):
    write_space(tmp_path, DEFAULT_MODEL)
    assert (tmp_path / "sd_pipeline" / DEFAULT_MODEL / "model_index.json").is_file()
    assert metadata(tmp_path)["models"] == []


def test_versions_are_pinned(tmp_path):
    write_space(tmp_path, DEFAULT_MODEL)
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"\w+==[\d.]+(\w+\d+)?", line) for line in lines)
    assert f"gradio=={version('gradio')}" in lines
    assert f"torch=={version('torch').split('+')[0]}" in lines


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("{folder}", "is a folder; a Space loads its model from the Hub"),
        ("a/b/c", "is no name of a model on the Hub"),
        ('x")', "is no name of a model on the Hub"),
    ],
)
def test_models_that_a_space_cannot_load(model, line, tmp_path, capsys):
    model = model.format(folder=tmp_path)
    assert cli.main(["space", "--output", str(tmp_path / "space"), "--model", model]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "space").exists()


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert cli.main(["space", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"sd-pipeline: {tmp_path} is not empty; give a new folder\n"
    assert cli.main(["space", "--output", str(tmp_path / "mine.txt")]) == 2


@pytest.mark.browser
def test_it_runs_where_this_checkout_is_not(tmp_path):
    """Without `site`, an editable installation is not on the path: only the folder has the package."""
    from tests.demo import browser

    write_space(tmp_path, DEFAULT_MODEL)
    environment = {"PYTHONPATH": sysconfig.get_paths()["purelib"]}
    with browser.served("-S", "app.py", folder=tmp_path, **environment) as address, browser.opened(address) as page:
        browser.fill(page, steps=3)
        browser.fix_seed(page, 2)
        browser.press(page, "text_to_image")
        (image,) = browser.made(page)
        prompt = page.input_value("#prompt textarea")
    pipe = SDPipeline.from_pretrained(DEFAULT_MODEL)
    expected = pipe(prompt, num_inference_steps=3, generator=generator(2)).images[0]
    np.testing.assert_array_equal(image, np.asarray(expected))
