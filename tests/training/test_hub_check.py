"""The doctor asks the Hub whether the run may publish where it wants to, and writes nothing there."""

from __future__ import annotations

import pytest

from tests.loopback_hub.faults import outage
from tests.loopback_hub.hub import TOKEN
from tests.loopback_hub.repositories import Repository
from tests.loopback_hub.server import loopback_hub
from training.config import HubConfig
from training.diagnosis.finding import Level
from training.diagnosis.hub_check import check_permission

pytestmark = pytest.mark.hub


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with loopback_hub() as hub:
        yield hub


def ask(hub, name="somebody/model", **block):
    findings = check_permission(HubConfig(True, name, **block), endpoint=hub.address)
    assert all(request.method == "GET" for request in hub.requests)
    (finding,) = findings
    return finding.level, finding.found


def test_a_run_that_does_not_publish_asks_nothing(hub):
    assert check_permission(HubConfig(), endpoint=hub.address) == []
    assert hub.requests == []


@pytest.mark.parametrize("name", ["somebody/model", "some-lab/model"])
def test_a_new_name_of_our_own_is_fine(hub, name):
    assert ask(hub, name)[0] is Level.FINE


def test_a_repository_of_our_own_is_fine(hub):
    hub.repositories["somebody/model"] = Repository("somebody/model", False)
    assert ask(hub)[0] is Level.FINE


def test_the_name_of_a_stranger_is_an_error(hub):
    level, found = ask(hub, "stranger/model")
    assert level is Level.ERROR
    assert "somebody is no member of stranger" in found


def test_a_token_that_may_only_read_is_an_error(hub):
    hub.role = "read"
    assert ask(hub) == (Level.ERROR, "the token may only read")


def test_a_token_that_is_not_accepted_is_an_error(hub):
    hub.tokens = set()
    level, found = ask(hub)
    assert level is Level.ERROR
    assert "does not accept the token" in found


def test_no_token_is_an_error(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    level, found = ask(hub)
    assert level is Level.ERROR
    assert "hf auth login" in found


def test_a_public_repository_is_no_place_for_a_private_model(hub):
    hub.repositories["somebody/model"] = Repository("somebody/model", False)
    level, found = ask(hub, hub_private_repo=True)
    assert level is Level.ERROR
    assert "is public" in found


def test_an_outage_is_a_warning(hub):
    hub.schedule = outage
    assert ask(hub)[0] is Level.WARNING
