"""The push through every fault, one by one and at random."""

from __future__ import annotations

import contextlib

import pytest

from sd_pipeline.publishing.hub_push import PushError
from tests.loopback_hub.faults import FAULTS, fault_at, no_faults, random_faults
from tests.publishing.hub_pushes import FILES, NAME, commits_of, folder, hub, push

__all__ = ["folder", "hub"]

pytestmark = pytest.mark.hub

STEPS = {
    "create": r"POST /api/repos/create",
    "info": r"GET /api/models/[^/]+/[^/]+/revision/main",
    "tree": r"GET .*/tree/",
    "commits": r"GET .*/commits/",
    "preupload": r"POST .*/preupload/",
    "batch": r"POST .*/objects/batch",
    "upload": r"PUT /lfs/",
    "card": r"POST /api/validate-yaml",
    "commit": r"POST .*/commit/main",
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", [name for name in FAULTS if name != "401"])
@pytest.mark.parametrize("times", [1, 2])
def test_faults_that_pass(hub, folder, name, step, times):
    hub.schedule = fault_at(FAULTS[name], STEPS[step], times)
    push(hub, folder)
    assert hub.repositories[NAME].find("main").content.items() >= FILES.items()
    assert len(commits_of(hub)) == 1


@pytest.mark.parametrize("step", STEPS)
def test_a_token_that_is_refused_midway(hub, folder, step):
    hub.schedule = fault_at(FAULTS["401"], STEPS[step])
    if step == "create":  # where the client looks whether the repository is there
        hub.schedule = fault_at(FAULTS["401"], "create|info|revision|models", 2)
    with pytest.raises(PushError, match=r"somebody/model \(main\) has not been pushed: .*does not accept the token"):
        push(hub, folder)
    assert step == "create" or commits_of(hub) == []
    push(hub, folder)
    assert len(commits_of(hub)) == 1


@pytest.mark.parametrize("seed", range(200))
def test_random_bad_days(hub, folder, seed):
    """Half of the days an older model is there already; the worst ones end without a push."""
    if seed % 2:
        push(hub, folder, commit_message="older")
        hub.repositories[NAME].slip_in("main", "vae/diffusion_pytorch_model.bin", b"older")
        (folder / "unet/config.json").write_bytes(b'{"sample_size": 8}\n')
    wanted = FILES | {"unet/config.json": (folder / "unet/config.json").read_bytes()}
    hub.schedule = random_faults(seed, share=(0.1, 0.3, 0.6, 0.9)[seed // 2 % 4], kinds=FAULTS.values())
    commit = None
    with contextlib.suppress(PushError):
        commit = push(hub, folder, num_retries=5, publication="this-one")
    assert commit is None or commit in [c.oid for c in hub.repositories[NAME].branches["main"]]
    hub.schedule = no_faults
    push(hub, folder, publication="this-one")
    commits = hub.repositories[NAME].branches["main"]
    assert [c.description for c in commits].count("Publication this-one") == 1
    assert commits[-1].content.items() >= wanted.items()
    assert "vae/diffusion_pytorch_model.bin" not in commits[-1].content
    for commit in commits:
        assert is_none_or_whole(commit.content, wanted)


def is_none_or_whole(content: dict[str, bytes], wanted: dict[str, bytes]) -> bool:
    """Say whether a commit holds no model, the older one or the newer one."""
    model = {name: data for name, data in content.items() if name in FILES}
    return model in ({}, FILES, wanted)
