"""What is installed from a wheel: the package and its models, found from any folder, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from sd_pipeline import SDPipeline
from sd_pipeline.pretrained_models import DEFAULT_MODEL
from tests.components import tiny_components
from tests.source_files import ROOT

PROGRAM = f"""
import sd_pipeline
from sd_pipeline.pretrained_models import packaged_model
print(sd_pipeline.__file__)
print(packaged_model("{DEFAULT_MODEL}"))
image = sd_pipeline.SDPipeline.from_pretrained("{DEFAULT_MODEL}")("a red circle").images[0]
print(*image.size)
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Build from a copy of the checkout whose shipped model is a stand-in."""
    copy = tmp_path_factory.mktemp("build") / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    for name in ("sd_pipeline", "training", "tests", "configs", "model_cards"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    recommended = {"num_inference_steps": 2, "guidance_scale": 3.0}
    SDPipeline(**tiny_components(), recommended_call=recommended).save_pretrained(copy / DEFAULT_MODEL)
    (copy / DEFAULT_MODEL / "samples.png").write_bytes(b"picture")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel"]
    subprocess.run(command, check=True, cwd=copy, capture_output=True)
    return copy / "dist"


def model_files(dist: Path) -> set[str]:
    model = dist.parent / DEFAULT_MODEL
    return {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def site(dist) -> Path:
    """Unpack the wheel, as an installer does."""
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(dist / "site")
    return dist / "site"


def run(site: Path, folder: Path, *command: str) -> list[str]:
    """Run Python with the wheel before the checkout, and return the lines it prints."""
    variables = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=folder, env=variables
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.slow
def test_what_the_archives_hold(dist, site):
    assert sorted(path.name for path in site.iterdir()) == ["sd_pipeline", "sd_pipeline-0.1.0.dist-info"]
    files = {str(path.relative_to(site / "sd_pipeline")) for path in (site / "sd_pipeline").rglob("*.*")}
    source = {str(path.relative_to(ROOT / "sd_pipeline")) for path in (ROOT / "sd_pipeline").rglob("*.py")}
    shipped = {f"{DEFAULT_MODEL}/{name}" for name in model_files(dist)}
    assert {"model_index.json", "samples.png", "unet/diffusion_pytorch_model.safetensors"} <= model_files(dist)
    assert files == {*source, "py.typed", *shipped}
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert shipped <= packed, "a wheel can be built from the source distribution, too"


@pytest.mark.slow
def test_the_model_is_found_from_any_folder(site, tmp_path):
    place, model, size = run(site, tmp_path, "-c", PROGRAM)
    assert place == str(site / "sd_pipeline" / "__init__.py")
    assert model == str(site / "sd_pipeline" / DEFAULT_MODEL)
    assert size == "32 32"


@pytest.mark.slow
def test_the_command_needs_no_model(site, tmp_path):
    command = ["-m", "sd_pipeline.cli", "generate", "--prompt", "a red circle", "--output", "out.png"]
    path, _ = run(site, tmp_path, *command)
    assert path == "out.png"
    assert (tmp_path / "out.png").is_file()


@pytest.mark.slow
def test_a_space_has_the_licence_of_the_package(site, tmp_path):
    run(site, tmp_path, "-m", "sd_pipeline.cli", "space", "--output", "space", "--model", "somebody/painter")
    assert (tmp_path / "space" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
