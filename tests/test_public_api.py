"""The public names: lazy, complete, and where diffusers looks for them."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys

import pytest

import sd_pipeline
from tests.source_files import ROOT

PUBLIC = sorted(sd_pipeline.__all__)


def run(code: str) -> str:
    """Run code in a new process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_importing_the_package_imports_nothing_heavy():
    code = """
import json, sys
import sd_pipeline
dir(sd_pipeline), sd_pipeline.__all__, sd_pipeline.__version__
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
    loaded = json.loads(run(code))
    assert "sd_pipeline" in loaded
    heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "accelerate", "datasets", "training"}
    assert heavy & set(loaded) == set()


def test_the_scheduler_costs_no_pipeline():
    code = """
import sys
from sd_pipeline import SDDDPMScheduler
assert SDDDPMScheduler().config.num_train_timesteps == 1000
print("sd_pipeline.pipelines.pipeline_sd" in sys.modules, "training" in sys.modules)
"""
    assert run(code).split() == ["False", "False"]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_classes_say_that_they_live_in_the_package(name):
    """diffusers writes this module into `model_index.json` and looks the class up in it."""
    kind = getattr(sd_pipeline, name)
    assert (kind.__module__, kind.__name__) == ("sd_pipeline", name)
    assert getattr(sys.modules["sd_pipeline"], name) is kind
    assert kind.__doc__


@pytest.mark.parametrize("name", ["ModelMixin", "SchedulerMixin"])
def test_base_classes_are_found_where_diffusers_looks(name):
    import diffusers

    assert getattr(sd_pipeline, name) is getattr(diffusers, name)


def test_the_lists_agree():
    assert set(PUBLIC) <= set(dir(sd_pipeline))
    assert set(PUBLIC) | {"ModelMixin", "SchedulerMixin"} == set(sd_pipeline._MODULE_OF)
    source = (ROOT / "sd_pipeline" / "__init__.py").read_text(encoding="utf-8")
    for name in PUBLIC:
        assert f"from {sd_pipeline._MODULE_OF[name]} import {name} as {name}" in source


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'sd_pipeline' has no attribute 'SDPipelin'"):
        sd_pipeline.SDPipelin  # noqa: B018
    with pytest.raises(ImportError, match="SDPipelin"):
        exec("from sd_pipeline import SDPipelin")


def test_there_is_one_version():
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.+)"$', settings, re.MULTILINE)[1] == sd_pipeline.__version__


def test_types_are_shipped():
    assert (ROOT / "sd_pipeline" / "py.typed").is_file()


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_public_class_runs(name):
    """Examples are part of the documentation; each prints what it says."""
    documentation = getattr(sd_pipeline, name).__doc__
    example = doctest.DocTestParser().get_doctest(documentation, {}, name, None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
