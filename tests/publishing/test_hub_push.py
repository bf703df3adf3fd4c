"""A push is one commit or none, through every fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download

from sd_pipeline.publishing.hub_push import PushError, check_target
from sd_pipeline.publishing.repository_check import RepositoryError
from tests.loopback_hub.faults import FAULTS, fault_at, outage
from tests.loopback_hub.hub import TOKEN
from tests.publishing.hub_pushes import FILES, NAME, commits_of, folder, hub, push, write_folder

__all__ = ["folder", "hub"]


def test_a_folder_becomes_one_commit(hub, folder):
    commit = push(hub, folder, commit_message="Train 700 steps")
    assert hub.repositories[NAME].find("main").oid == commit
    assert hub.repositories[NAME].find("main").content == FILES
    assert [c.title for c in hub.repositories[NAME].branches["main"]] == ["initial commit", "Train 700 steps"]


def test_what_is_there_already_makes_no_commit(hub, folder):
    commit = push(hub, folder)
    assert push(hub, folder) == commit
    assert len(commits_of(hub)) == 1


def test_only_what_differs_is_sent_and_stale_weights_go_in_the_same_commit(hub, folder):
    push(hub, folder)
    repository = hub.repositories[NAME]
    repository.slip_in("main", "unet/diffusion_pytorch_model.bin", b"older")
    repository.slip_in("main", "safety_checker/config.json", b"{}")
    repository.slip_in("main", "docs/story.md", b"mine")
    repository.slip_in("main", "cover.jpg", b"mine too")
    (folder / "unet/config.json").write_bytes(b'{"new": 1}\n')
    before = len(hub.requests)
    push(hub, folder)
    assert repository.find("main").content == {
        **FILES,
        "unet/config.json": b'{"new": 1}\n',
        "docs/story.md": b"mine",
        "cover.jpg": b"mine too",
    }
    assert len(commits_of(hub)) == 2
    assert not any(request.method == "PUT" for request in hub.requests[before:])


def test_an_outage_is_one_line_after_so_many_retries(hub, folder):
    hub.schedule = outage
    waits: list[float] = []
    with pytest.raises(PushError) as caught:
        push(hub, folder, waits, num_retries=3)
    assert "\n" not in str(caught.value)
    assert len(waits) == 3
    assert hub.repositories == {}


def test_waiting_is_as_long_as_the_hub_asks_or_random(hub, folder):
    waits: list[float] = []
    hub.schedule = fault_at(FAULTS["429"], "create")
    push(hub, folder, waits)
    assert waits == [7.0]
    waits.clear()
    hub.schedule = outage
    with pytest.raises(PushError):
        push(hub, folder, waits)
    assert all(0 <= wait <= min(60, 2**number) for number, wait in enumerate(waits))
    assert len(set(waits)) == 8


def test_a_lost_answer_is_found_below_what_others_made_of_it(hub, folder):
    def lose_and_edit(method, path):
        if method == "POST" and "/commit/" in path:
            return FAULTS["dropped after"]
        if commits_of(hub) and len(hub.repositories[NAME].branches["main"]) == 2:
            hub.repositories[NAME].slip_in("main", "README.md", b"# Edited by hand\n")
        return None

    hub.schedule = lose_and_edit
    commit = push(hub, folder)
    assert [c.oid for c in commits_of(hub)] == [commit]
    assert hub.repositories[NAME].find("main").content["README.md"] == b"# Edited by hand\n"


def test_a_push_that_was_cut_off_is_recognised_later(hub, folder):
    first = push(hub, folder, publication="the-first")
    hub.repositories[NAME].slip_in("main", "README.md", b"# Edited by hand\n")
    assert push(hub, folder, publication="the-first") == first
    assert len(commits_of(hub)) == 1


def test_a_branch_beside_main(hub, folder):
    push(hub, folder, revision="step-4")
    assert len(hub.repositories[NAME].branches["main"]) == 1
    assert hub.repositories[NAME].find("step-4").content == FILES


def test_private_repositories(hub, folder):
    push(hub, folder, private=True)
    assert hub.repositories[NAME].private
    hub.repositories[NAME].private = False
    with pytest.raises(PushError, match="somebody/model is public"):
        push(hub, folder, private=True)


@pytest.mark.parametrize("name", ["model", "a/b/c", "somebody/..", "some body/model", ""])
def test_names_that_are_none(monkeypatch, name):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ValueError, match="is no name on the Hub") as caught:
        check_target(name)
    assert "\n" not in str(caught.value)


def test_without_a_token_nothing_is_asked(hub, folder, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="hf auth login"):
        push(hub, folder)
    assert hub.requests == []


def test_files_of_other_kinds_are_refused_before_anything_is_asked(hub, folder):
    write_folder(folder, {"unet/diffusion_pytorch_model.bin": b"pickle"})
    with pytest.raises(RepositoryError, match=r"diffusion_pytorch_model\.bin"):
        push(hub, folder)
    assert hub.requests == []


def test_a_card_that_the_hub_refuses(hub, folder):
    write_folder(folder, {"README.md": b"---\nlicense: 3\n---\n"})
    waits: list[float] = []
    with pytest.raises(PushError, match="Invalid metadata in README"):
        push(hub, folder, waits)
    assert waits == []
    assert commits_of(hub) == []


def test_offline_mode_is_not_waited_for(hub, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    waits: list[float] = []
    with pytest.raises(PushError, match="HF_HUB_OFFLINE"):
        push(hub, folder, waits)
    assert waits == []


def test_no_message_holds_the_token(hub, folder):
    hub.schedule = fault_at(FAULTS["401"], "/commit/")
    hub.tokens = set()
    with pytest.raises(PushError) as caught:
        push(hub, folder)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_client_reads_what_was_pushed(hub, folder, tmp_path):
    commit = push(hub, folder)
    api = HfApi(endpoint=hub.address)
    assert api.whoami()["name"] == "somebody"
    assert api.list_repo_commits(NAME)[0].commit_id == commit
    assert {ref.name for ref in api.list_repo_refs(NAME).branches} == {"main"}
    assert api.get_paths_info(NAME, ["README.md"])[0].size == len(FILES["README.md"])
    for name, content in FILES.items():
        path = hf_hub_download(NAME, name, endpoint=hub.address, cache_dir=tmp_path / "cache")
        assert commit in path
        assert Path(path).read_bytes() == content
