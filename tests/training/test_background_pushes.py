"""What goes to the Hub while a training goes on, and a training that goes on from there."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file

from sd_pipeline import SDPipeline
from tests.loopback_hub.faults import no_faults, outage
from tests.loopback_hub.hub import TOKEN, Hub
from tests.loopback_hub.repositories import Repository
from tests.loopback_hub.server import loopback_hub
from tests.publishing.hub_pushes import write_folder as lay_down
from tests.secrets import leaks_of_hub
from tests.training.data.image_folders import write_folder
from tests.training.published_runs import NAME, Run
from tests.training.runs import rows, status
from training.background_pushes import OUTGOING, BackgroundPushes
from training.config import ConfigError, TrainConfig
from training.config_io import parse_config
from training.engine.run_folder import RunFolder
from training.published_state import HubState, fetch_state, split_resume
from training.stages import build_task, load_data

pytestmark = [pytest.mark.slow, pytest.mark.hub]

STATES = f"hub:{NAME}@training-state"
SECONDS = 120


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A Hub that this process and those it starts take for the only one."""
    with loopback_hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.address)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name, value in {
            "TOKEN": TOKEN,
            "ENDPOINT": hub.address,
            "HUB_OFFLINE": "0",
            "HUB_DISABLE_XET": "1",
        }.items():
            patch.setenv(f"HF_{name}", value)
        yield hub


@pytest.fixture(scope="module")
def trained(tmp_path_factory, hub) -> Run:
    """A run on pictures whose folder has an absolute path, finished after two updates of each stage."""
    place = tmp_path_factory.mktemp("trained")
    run = Run(place, hub)
    assert run.train(*_of(write_folder(place / "pictures", 16), 2), push_to_hub=False) == 0, run.said
    return run


@pytest.fixture(scope="module")
def on_the_way(tmp_path_factory, hub, trained) -> Repository:
    """What is on the Hub after the trainer has saved a state of the diffusion stage, and then another."""
    run, config = copy_of(trained, tmp_path_factory.mktemp("copy"), hub)
    folder = RunFolder(run.output_dir)
    task = build_task("diffusion", config, folder, torch.device("cpu"), *load_data(config))
    with BackgroundPushes(config, folder) as pushes:
        started = time.monotonic()
        pushes.after_save(task, 2)
        pushes.after_save(task, 3)  # The first push is still going on.
        assert time.monotonic() - started < 10, "the trainer waits for no push"
        wait_for(hub, "training", "training-state")
    return hub.repositories[NAME]


def _of(pictures, steps) -> list[str]:
    changes = [f"--{stage}.max_train_steps={steps}" for stage in ("text_encoder", "autoencoder")]
    changes += [f"--{stage}.checkpointing_steps=1" for stage in ("text_encoder", "autoencoder", "diffusion")]
    changes += [f"--diffusion.max_train_steps={steps}", "--diffusion.lr_scheduler=constant_with_warmup"]
    return [f"--data.dataset={pictures}", *changes]


def copy_of(run: Run, place, hub: Hub) -> tuple[Run, TrainConfig]:
    """Copy a run into another place, to publish while its U-Net trains, for two more updates."""
    shutil.copytree(run.output_dir, place / "run")
    copy = Run(place, hub)
    block = ["--hub.push_to_hub=true", f"--hub.hub_model_id={NAME}", "--hub.hub_strategy=checkpoint"]
    block += [f"--output_dir={copy.output_dir}", "--diffusion.max_train_steps=4"]
    config = parse_config(["--config", str(run.place / "run.yaml"), *_of(run.place / "pictures", 2), *block])
    return copy, config


def wait_for(hub: Hub, *branches: str) -> None:
    """Wait until something has been pushed to each of the branches."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        repository = hub.repositories.get(NAME)
        if repository is not None and all(pushed(repository.branches.get(branch, [])) for branch in branches):
            return
        time.sleep(0.2)
    raise AssertionError(f"after {SECONDS} s, {branches} have not all been pushed")


def pushed(commits) -> bool:
    return any(commit.description.startswith("Publication") for commit in commits)


def test_models_and_states_go_to_branches_of_their_own(tmp_path, hub, trained, on_the_way):
    assert not pushed(on_the_way.branches["main"])
    (model,) = (c for c in on_the_way.branches["training"] if c.description.startswith("Publication"))
    assert model.title == "Model after 2 of 4 steps"
    assert b"after 2 of\n4 updates" in model.content["README.md"]
    assert not any(path.startswith("training_state") for path in model.content)
    (state,) = (c for c in on_the_way.branches["training-state"] if c.description.startswith("Publication"))
    assert {path.split("/")[0] for path in state.content} == {"README.md", "training_state"}
    assert leaks_of_hub(hub, [TOKEN, str(tmp_path.parent)]) == {}
    folder = lay_down(tmp_path, model.content)
    assert SDPipeline.from_pretrained(folder)("picture 03", num_inference_steps=1).images[0].size == (32, 32)


@pytest.mark.usefixtures("on_the_way")
def test_a_training_goes_on_elsewhere_to_the_same_weights(tmp_path, hub, trained):
    stay, there = copy_of(trained, tmp_path / "stay", hub)[0], Run(tmp_path / "elsewhere", hub)
    pictures = there.place / "pictures"
    shutil.copytree(trained.place / "pictures", pictures)
    four = ["--diffusion.max_train_steps=4"]
    assert there.train("--resume", STATES, *_of(pictures, 2), *four, push_to_hub=False) == 0, there.said
    assert "diffusion: goes on from checkpoint-2" in there.said
    assert stay.train(*_of(trained.place / "pictures", 2), *four, push_to_hub=False) == 0, stay.said
    unet = "pipeline/unet/diffusion_pytorch_model.safetensors"
    ours, theirs = (load_file(run.output_dir / unet) for run in (stay, there))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert len(rows(there.output_dir, "text_encoder")) == 2
    assert yaml.safe_load((there.output_dir / "config.yaml").read_text())["data"]["dataset"] == str(pictures)


def test_a_run_of_another_configuration_does_not_go_on(tmp_path, hub, trained, on_the_way):
    there = Run(tmp_path, hub)
    assert there.train("--resume", STATES, *_of(trained.place / "pictures", 2), "--seed=7", push_to_hub=False) == 2
    assert "seed: 0 -> 7" in status(there.output_dir)["message"]
    assert not (there.output_dir / "config.yaml").exists()


def test_a_state_with_a_path_to_somewhere_else_is_refused(tmp_path, hub, trained, on_the_way):
    config = copy_of(trained, tmp_path / "first", hub)[1]
    on_the_way.branches["evil"] = list(on_the_way.branches["training-state"])
    on_the_way.slip_in("evil", "training_state/../../../evil.json", b"{}")
    with pytest.raises(ConfigError, match=r"evil.json' has no place in a training state"):
        fetch_state(HubState(NAME, "evil"), config, RunFolder(tmp_path / "new"))
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.parametrize("written", ["", "hub:", "hub:name", f"hub:{NAME}", f"hub:{NAME}@", f"{NAME}@main", "state"])
def test_a_place_that_is_none_is_refused(written):
    with pytest.raises(ConfigError, match="hub:USER/NAME@BRANCH"):
        split_resume(["--resume", written])


def test_a_repository_without_a_state_is_told(tmp_path, hub, trained, on_the_way):
    run, config = copy_of(trained, tmp_path / "first", hub)
    with pytest.raises(ConfigError, match=f"hub:{NAME}@main: there is no training state"):
        fetch_state(HubState(NAME, "main"), config, RunFolder(tmp_path / "new"))
    fetch_state(HubState(NAME, "main"), config, RunFolder(run.output_dir))  # A run goes on from itself.


def test_an_outage_stops_nothing_and_a_stopped_run_sends_later(tmp_path, trained):
    """The run is stopped in the middle, with its last model and state in the spool."""
    with loopback_hub() as hub:
        hub.schedule = outage
        run, config = copy_of(trained, tmp_path, hub)
        folder = RunFolder(run.output_dir)
        task = build_task("diffusion", config, folder, torch.device("cpu"), *load_data(config))
        with BackgroundPushes(config, folder) as pushes:
            pushes.after_save(task, 2)
        hub.schedule = no_faults
        assert run.push() == 0, run.said
        branches = hub.repositories[NAME].branches
        assert {name for name in branches if pushed(branches[name])} == {"training", "training-state"}


def test_a_finished_run_sends_the_finished_model_alone(tmp_path):
    """What was meant for the branches is outdated at the end; these few steps are over before it can be sent."""
    with loopback_hub() as hub:
        run = Run(tmp_path, hub)
        assert run.train("--diffusion.checkpointing_steps=2", hub_strategy="every_save") == 0, run.said
        run.check_published_once()
        run.check_secrets()
    assert not (run.output_dir / OUTGOING).exists()
    assert [file.name for file in (run.output_dir / "spool").iterdir()] == ["main.json"]
