"""Real training runs that publish what they made, on good and bad days of the Hub."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.loopback_hub.faults import FAULTS, no_faults, outage, random_faults
from tests.loopback_hub.hub import TOKEN, Hub
from tests.loopback_hub.server import loopback_hub
from tests.training.published_runs import NAME, Run
from tests.training.runs import rows, status

pytestmark = [pytest.mark.slow, pytest.mark.hub]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with loopback_hub() as hub:
        yield hub


def test_an_outage_for_the_whole_run(tmp_path, hub):
    run = Run(tmp_path, hub)
    hub.schedule = outage
    assert run.train() == 76, run.said
    state = status(run.output_dir)
    assert (state["state"], state["exit_code"]) == ("push_pending", 76)
    assert "sd-pipeline push run" in state["message"]
    assert [row["step"] for row in rows(run.output_dir, "diffusion")] == [1, 2, 3, 4]
    assert hub.repositories == {}
    assert run.push() == 76
    hub.schedule = no_faults
    assert run.push() == 0, run.said
    assert status(run.output_dir)["state"] == "finished"
    run.check_published_once()
    number = len(hub.requests)
    assert run.train() == 0, "what is finished and pushed is left alone"
    assert len(hub.requests) == number
    run.check_published_once()
    run.check_secrets()


@pytest.mark.parametrize("seed", range(4))
def test_bad_days(tmp_path, hub, seed):
    run = Run(tmp_path, hub)
    kinds = [fault for fault in FAULTS.values() if fault.retry_after is None]
    hub.schedule = random_faults(seed, share=(0.1, 0.2, 0.3, 0.6)[seed], kinds=kinds)
    ended = run.train()
    assert ended in (0, 76), run.said
    assert [row["step"] for row in rows(run.output_dir, "diffusion")] == [1, 2, 3, 4]
    assert status(run.output_dir)["state"] == ("finished" if ended == 0 else "push_pending")
    hub.schedule = no_faults
    assert run.train() == 0, run.said
    run.check_published_once()
    run.check_secrets()


def test_a_part_is_published_alone(tmp_path, hub):
    """The output of the last stage is what is published: here the autoencoder, tried out and with its card."""
    run = Run(tmp_path, hub)
    assert run.train("--stages=[autoencoder]") == 0, run.said
    content = hub.repositories[NAME].branches["main"][-1].content
    assert {path.split("/")[0] for path in content} >= {"vae", "README.md"}
    assert f'from_pretrained("{NAME}", subfolder="vae")' in content["README.md"].decode()
    run.check_secrets()


@pytest.mark.parametrize(
    ("block", "token", "fragment"),
    [
        ({}, "", "hf auth login"),
        ({"hub_model_id": "some body/digits"}, TOKEN, "some body/digits"),
        ({"hub_model_id": None}, TOKEN, "hub.hub_model_id"),
        ({"hub_model_id": "digits"}, TOKEN, "hub.hub_model_id = 'digits'"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_step(tmp_path, hub, block, token, fragment):
    run = Run(tmp_path, hub)
    run.variables["HF_TOKEN"] = token
    assert run.train(**block) == 2
    assert fragment in status(run.output_dir)["message"]
    assert hub.requests == []
    assert not (run.output_dir / "text_encoder").exists()
