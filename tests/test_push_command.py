"""`sd-pipeline push`."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save

from sd_pipeline.cli import main
from sd_pipeline.publishing.hub_push import Target
from sd_pipeline.publishing.hub_spool import WHEN_SENT, read_spool, spool_push
from tests.loopback_hub.faults import FAULTS, fault_at, no_faults
from tests.loopback_hub.hub import TOKEN
from tests.publishing.hub_pushes import NAME, commits_of, hub, write_folder

__all__ = ["hub"]

ADAPTERS = {
    "README.md": b"---\nlicense: mit\n---\n",
    "pytorch_lora_weights.safetensors": save({"weight": torch.ones(3)}),
}


@pytest.fixture
def run(hub, tmp_path, monkeypatch):
    """The folder of a run, with a model that is no pipeline, and a Hub that the command finds."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    write_folder(tmp_path / "run" / "pipeline", ADAPTERS)
    return tmp_path / "run"


def test_a_folder_is_pushed(run, hub, capsys):
    assert main(["push", str(run / "pipeline"), "--repo-id", NAME, "--private"]) == 0
    (commit,) = commits_of(hub)
    assert commit.content == ADAPTERS
    assert hub.repositories[NAME].private
    assert capsys.readouterr().out == f"{NAME} (main) holds the model, commit {commit.oid}\n"


def test_what_waits_in_a_run_is_pushed_once(run, hub, capsys):
    (run / "status.json").write_text('{"state": "push_pending"}')
    (run / WHEN_SENT).mkdir(parents=True)
    (run / WHEN_SENT / "status.json").write_text('{"state": "finished"}')
    spool_push(run, "pipeline", Target(NAME), "Model after 4 steps")
    hub.schedule = fault_at(FAULTS["401"], "/commit/")
    with pytest.raises(SystemExit) as ended:
        main(["push", str(run)])
    assert ended.value.code == 76
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"sd-pipeline: {NAME} (main) has not been pushed")
    assert TOKEN not in said
    hub.schedule = no_faults
    for _ in range(2):
        assert main(["push", str(run)]) == 0
    (commit,) = commits_of(hub)
    assert (commit.title, commit.content) == ("Model after 4 steps", ADAPTERS)
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert [push.commit for push in read_spool(run)] == [commit.oid]


def test_a_model_that_was_pushed_is_not_asked_for_again(run, hub):
    spool_push(run, "pipeline", Target(NAME), "first")
    assert main(["push", str(run)]) == 0
    spool_push(run, "pipeline", Target(NAME), "again")
    assert [push.commit_message for push in read_spool(run)] == ["first"]
    write_folder(run / "pipeline", {"pytorch_lora_weights.safetensors": save({"weight": torch.zeros(3)})})
    spool_push(run, "pipeline", Target(NAME), "better")
    assert [(push.commit_message, push.commit) for push in read_spool(run)] == [("better", None)]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["nowhere"], "nowhere is no folder"),
        ([".", "--retries", "-1"], "--retries is -1"),
        (["."], "nothing waits to be pushed in ."),
        ([".", "--variant", "fp16"], "--variant goes with --repo-id"),
        (["pipeline", "--repo-id", NAME, "--variant", "fp16"], "model_index.json is missing"),
        ([".", "--repo-id", "model"], "'model' is no name on the Hub"),
        ([".", "--repo-id", NAME], "pickle.bin"),
        ([".", "--token", TOKEN], "--token"),
    ],
)
def test_mistakes_are_one_line(run, hub, monkeypatch, capsys, arguments, fragment):
    write_folder(run, {"pickle.bin": b""})
    monkeypatch.chdir(run)
    assert main(["push", *arguments]) == 2
    said = capsys.readouterr().err
    assert fragment in said
    assert said.count("\n") == 1
    assert hub.requests == []


def test_a_damaged_spool_is_named(run, capsys):
    write_folder(run, {"spool/main.json": b'{"repo_id": "somebody/model"}'})
    assert main(["push", str(run)]) == 2
    assert "main.json is no push that waits" in capsys.readouterr().err
