"""The folder of a run: what may be used, and what counts as finished."""

from __future__ import annotations

import os

import pytest

from training.engine.run_folder import RunFolder, RunFolderError


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def export(text: str):
    def write(path) -> None:
        path.mkdir(parents=True)
        (path / "weights").write_text(text)

    return write


def test_new_and_empty_folders_and_runs_are_usable(folder):
    folder.check_usable()
    RunFolder(folder.path / "deep" / "down").check_usable()
    folder.path.mkdir()
    folder.check_usable()
    (folder.path / "status.json").write_text("{}")
    (folder.path / "logs").mkdir()
    folder.check_usable()
    (folder.path / "config.yaml").write_text("seed: 0")
    (folder.path / "notes.txt").write_text("mine")
    folder.check_usable()


def expect_refusal(folder, *fragments: str) -> None:
    with pytest.raises(RunFolderError) as caught:
        folder.check_usable()
    assert "\n" not in str(caught.value)
    for fragment in (f"output_dir = {str(folder.path)!r}", *fragments):
        assert fragment in str(caught.value)


def test_what_holds_something_else_is_not(folder):
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("years of work")
    expect_refusal(folder, "thesis.txt", "no config.yaml")


def test_files_in_the_way(folder):
    folder.path.write_text("a file")
    expect_refusal(folder, "no folder that can be written")
    expect_refusal(RunFolder(folder.path / "below"), str(folder.path), "no folder that can be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folders_that_cannot_be_written(folder):
    folder.path.mkdir(mode=0o500)
    expect_refusal(folder, "no folder that can be written")


def test_results_lie_where_the_run_promises_them(folder):
    assert folder.result("diffusion") == folder.path / "pipeline"
    assert folder.result("autoencoder") == folder.path / "autoencoder" / "final"


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_stage_is_finished_with_its_output_in_place(folder, stage):
    assert folder.record(stage) is None
    assert not folder.has_begun(stage)
    folder.finish(stage, export("first"), step=10, seconds=2.0)
    assert (folder.result(stage) / "weights").read_text() == "first"
    record = folder.record(stage)
    assert (record["stage"], record["step"]) == (stage, 10)
    assert record["seconds"] >= 2.0
    assert folder.has_begun(stage)
    assert [folder.is_finished(stage, steps) for steps in (0, 10, 11)] == [True, True, False]

    folder.finish(stage, export("second"), step=20, seconds=4.0)
    assert (folder.result(stage) / "weights").read_text() == "second"
    assert folder.is_finished(stage, 20)
    left = [path.name for path in folder.path.rglob(".*")]
    assert left == []


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_failed_export_leaves_the_old_output(folder, stage):
    folder.finish(stage, export("first"), step=10, seconds=0.0)

    def fail(path) -> None:
        export("half")(path)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        folder.finish(stage, fail, step=20, seconds=0.0)
    assert (folder.result(stage) / "weights").read_text() == "first"
    assert folder.record(stage)["step"] == 10
    folder.finish(stage, export("second"), step=20, seconds=0.0)
    assert (folder.result(stage) / "weights").read_text() == "second"


def test_a_stage_without_its_output_is_not_finished(folder):
    """As after a crash between the two renames that replace an output."""
    folder.finish("diffusion", export("first"), step=10, seconds=0.0)
    folder.pipeline.rename(folder.path / "moved")
    assert not folder.is_finished("diffusion", 10)


def test_a_stage_with_a_training_state_has_begun(folder):
    (folder.stage("diffusion") / "checkpoint-5").mkdir(parents=True)
    assert folder.has_begun("diffusion")
    assert not folder.is_finished("diffusion", 5)
