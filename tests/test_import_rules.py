"""Which part may import which, read from the imports themselves: nothing is run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import sd_pipeline
from tests.source_files import PACKAGES, ROOT, module_of, source_files, tree_of
from training.config import STAGES

TRACKERS = ("tensorboard", "tensorboardX", "wandb", "comet_ml", "mlflow", "aim", "clearml", "trackio", "swanlab")
ONLY_A_PERSON_RUNS = [
    f"training.{file.stem}" for file in (ROOT / "training").glob("*.py") if "__main__" in file.read_text()
]


def imports_of(file: Path) -> set[str]:
    """List everything that a file imports, anywhere in it, as full names of modules and of what is taken from them.

    A public class that is imported from `sd_pipeline` counts as an import of the module where it lives.
    """
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            for alias in node.names:
                found |= {node.module or "", f"{node.module}.{alias.name}"}
                if node.module == "sd_pipeline":
                    found.add(sd_pipeline._MODULE_OF.get(alias.name, "sd_pipeline"))
    return found


def offences(folder: str, *forbidden: str) -> list[str]:
    """List the imports of a folder or file that lie in forbidden modules."""
    files = [ROOT / folder] if folder.endswith(".py") else source_files(folder)
    assert files
    assert all(file.is_file() for file in files)
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in sorted(imports_of(file))
        if any(name == module or name.startswith(module + ".") for module in forbidden)
    ]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("sd_pipeline", ["training", "tests", "datasets", "accelerate", *TRACKERS]),
        ("sd_pipeline/models", ["sd_pipeline.schedulers", "sd_pipeline.pipelines", "sd_pipeline.publishing"]),
        ("sd_pipeline/schedulers", ["sd_pipeline.models", "sd_pipeline.pipelines", "sd_pipeline.publishing"]),
        ("training/engine", ["training.tasks", "training.data", "training.evaluation", "sd_pipeline"]),
        ("training/tasks", ["training.engine.trainer", "training.config_io"]),
        ("training/release", ["training.tasks", "training.engine.trainer"]),
        ("training/data", ["training.tasks", "training.evaluation", "training.config", "training.engine.trainer"]),
        ("training/data", ["sd_pipeline.pipelines", "sd_pipeline.schedulers", "sd_pipeline.publishing"]),
        ("training/evaluation", ["training.tasks", "training.engine", "training.config"]),
        ("training/config_stages.py", ["training", "sd_pipeline"]),
        ("training/config_io.py", ["training.engine", "training.tasks", "training.data", "sd_pipeline"]),
        *((f"training/{part}", ["training.stages", "training.diagnosis"]) for part in ("engine", "tasks", "data")),
        ("training", ["tests"]),
    ],
)
def test_import_direction(folder, forbidden):
    assert offences(folder, *forbidden) == []


def test_the_configuration_imports_nothing_of_the_project():
    """Its files are one: the blocks of the stages, and the whole."""
    names = ("stages", "autoencoder", "diffusion", "distillation", "segmentation", "evaluation", "card", "hub")
    blocks = tuple(f"training.config_{block}" for block in names)
    for file in ("config.py", *(f"config_{block}.py" for block in names)):
        imported = imports_of(ROOT / "training" / file)
        of_the_project = {name for name in imported if name.split(".")[0] in (*PACKAGES, "tests")}
        assert {name for name in of_the_project if not name.startswith(blocks)} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_tasks_do_not_import_each_other(stage):
    others = [f"training.tasks.{other}" for other in STAGES if other != stage]
    assert offences(f"training/tasks/{stage}.py", *others) == []
    for shared in source_files("training/tasks"):
        if shared.stem not in STAGES:
            tasks = [f"training.tasks.{task}" for task in STAGES]
            assert offences(str(shared.relative_to(ROOT)), *tasks) == []


def test_nothing_imports_what_only_a_person_runs():
    assert {"training.train", "training.evaluate_model"} <= set(ONLY_A_PERSON_RUNS)
    for package in PACKAGES:
        assert offences(package, *ONLY_A_PERSON_RUNS) == []


def test_no_file_hides_a_module_that_training_needs():
    """`accelerate launch training/train.py` puts `training/` first on the path."""
    taken = {"datasets", "logging", "random", "types", "evaluate", "tokenizers", "queue"}
    here = {path.stem for path in (ROOT / "training").iterdir()}
    assert here & taken == set()
    outside = {name.split(".")[0] for file in source_files(*PACKAGES) for name in imports_of(file)} - set(PACKAGES)
    assert here & outside == set()


# They need torchvision, whose one build on the index breaks transformers beside a torch for CPUs. torchmetrics does so
# with its extra `image` only.
NEED_TORCHVISION = ("torchvision", "torchmetrics[image]", "lpips", "cleanfid", "clean-fid", "timm", "torch_fidelity")


def test_nothing_depends_on_torchvision():
    for folder in (*PACKAGES, "tests"):
        assert offences(folder, *NEED_TORCHVISION) == []
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace("-", "_")
    for name in NEED_TORCHVISION:
        assert not re.search(rf"\b{re.escape(name.replace('-', '_'))}", settings)


def test_the_reader_of_imports_sees_them(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "import os.path\nfrom training.engine import trainer\ndef late():\n    from sd_pipeline import SDPipeline\n"
    )
    assert imports_of(file) == {
        "os.path",
        "sd_pipeline",
        "sd_pipeline.SDPipeline",
        "sd_pipeline.pipelines.pipeline_sd",
        "training.engine",
        "training.engine.trainer",
    }
    assert module_of(ROOT / "training" / "engine" / "__init__.py") == "training.engine"
