"""What trackers are told of a configuration, and how a run names its trackers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sd_pipeline.publishing.model_card import without_local_paths
from tests.training.configurations import tiny_train_config
from training.config import ConfigError
from training.config_io import parse_config

TOKEN = "hf_" + "aB3dE6gH9j" * 3


def test_nothing_of_the_machine_and_nothing_secret():
    home = str(Path.home())
    config = tiny_train_config(
        output_dir=f"{home}/runs/faces",
        data__dataset=f"https://user:{TOKEN}@example.org/faces-{{000..010}}.tar?signature=secret",
        diffusion__latent_cache_dir="/mnt/fast/latents",
        autoencoder__perceptual={"model_name_or_path": f"file://{home}/models/clip"},
        evaluation__validation_prompts=["a face? yes/no", f"a face, {TOKEN}"],
    )
    told = without_local_paths(dataclasses.asdict(config))
    text = json.dumps(told)
    for private in (home, TOKEN, "/mnt", "secret", "user:"):
        assert private not in text
    assert told["output_dir"] == "faces"
    assert told["data"]["dataset"] == "https://example.org/faces-{000..010}.tar"
    assert told["diffusion"]["latent_cache_dir"] == "latents"
    assert told["autoencoder"]["perceptual"]["model_name_or_path"] == "clip"
    assert told["evaluation"]["validation_prompts"] == ["a face? yes/no", "a face, "]
    assert told["diffusion"]["unet"] == config.diffusion.unet
    assert told["data"]["resolution"] == 32


@pytest.mark.parametrize(
    ("value", "trackers"),
    [
        ("none", []),
        ("wandb", ["wandb"]),
        ("[tensorboard,trackio,tensorboard]", ["tensorboard", "trackio"]),
        ("[]", []),
    ],
)
def test_trackers_by_name(value, trackers):
    assert parse_config(["--data.dataset=digits", "--output_dir=out", f"--report_to={value}"]).trackers == trackers


@pytest.mark.parametrize("value", ["mlflow", "[wandb,none]", "all"])
def test_unknown_trackers_are_refused(value):
    with pytest.raises(ConfigError, match="report_to"):
        parse_config(["--data.dataset=digits", "--output_dir=out", f"--report_to={value}"])


def test_tensorboard_is_the_default():
    assert parse_config(["--data.dataset=digits", "--output_dir=out"]).trackers == ["tensorboard"]
