"""How a run stands: the words, the exit codes and the file."""

from __future__ import annotations

import json

import pytest

from training.engine.run_status import RunState, write_status


def test_exit_codes_are_those_that_people_script_against():
    assert {state.label: state.exit_code for state in RunState} == {
        "running": None,
        "finished": 0,
        "failed": 1,
        "bad_input": 2,
        "stopped": 75,
        "push_pending": 76,
    }


def test_the_file(tmp_path):
    folder = tmp_path / "new" / "run"
    write_status(folder, RunState.RUNNING, "training")
    assert json.loads((folder / "status.json").read_text()) == {
        "state": "running", "exit_code": None, "message": "training"
    }  # fmt: skip
    write_status(folder, RunState.STOPPED, "stopped by SIGTERM")
    assert json.loads((folder / "status.json").read_text())["exit_code"] == 75
    assert [path.name for path in folder.iterdir()] == ["status.json"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_status(tmp_path / "file" / "run", RunState.RUNNING, "training")


def test_a_status_is_written_over_the_old_one_where_there_is_no_room_for_a_second_file(tmp_path):
    """As on a full disk; here a folder stands in the way of the second file."""
    write_status(tmp_path, RunState.RUNNING, "training, with a long message that is cut")
    (tmp_path / ".status.json.partial").mkdir()
    write_status(tmp_path, RunState.FAILED, "full")
    content = json.loads((tmp_path / "status.json").read_text())
    assert content == {"state": "failed", "exit_code": 1, "message": "full"}
