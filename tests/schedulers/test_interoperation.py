"""Configurations move between our scheduler and those of diffusers, in memory, on disk and into another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from sd_pipeline import SDDDPMScheduler

STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "steps_offset": 1,
}
OTHERS = [
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
]


@pytest.mark.parametrize("name", OTHERS)
def test_a_scheduler_of_diffusers_takes_our_configuration(name: str) -> None:
    ours = SDDDPMScheduler(**STABLE_DIFFUSION)
    other = getattr(diffusers, name).from_config(ours.config)
    for key in ("beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset"):
        assert other.config[key] == ours.config[key], key
    other.set_timesteps(10)
    sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * other.init_noise_sigma
    for t in other.timesteps:
        sample = other.step(0.1 * other.scale_model_input(sample, t), t, sample).prev_sample
    assert sample.isfinite().all()


@pytest.mark.parametrize("name", OTHERS)
def test_we_take_the_configuration_of_a_scheduler_of_diffusers(name: str, tmp_path: Path) -> None:
    cls = getattr(diffusers, name)
    other = cls.from_config(diffusers.DDPMScheduler(**STABLE_DIFFUSION).config)
    other.save_pretrained(tmp_path)
    for ours in (SDDDPMScheduler.from_config(other.config), SDDDPMScheduler.from_pretrained(tmp_path)):
        for key in ("beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset"):
            assert ours.config[key] == other.config[key], key
        ours.set_timesteps(10)
        sample = torch.zeros(1, 4, 8, 8)
        assert ours.step(sample, ours.timesteps[0], sample).prev_sample.isfinite().all()


def test_there_and_back_keeps_every_key() -> None:
    ours = SDDDPMScheduler(variance_type="fixed_large", clip_sample_range=2.0, **STABLE_DIFFUSION)
    solver = diffusers.DPMSolverMultistepScheduler.from_config(ours.config)
    back = SDDDPMScheduler.from_config(solver.config)
    assert public(back) == public(ours)


def test_the_mean_parameterisation_is_refused_by_samplers_that_do_not_know_it() -> None:
    ours = SDDDPMScheduler(prediction_type="mean")
    stock = diffusers.DDIMScheduler.from_config(ours.config)
    stock.set_timesteps(10)
    sample = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="prediction_type given as mean"):
        stock.step(sample, 900, sample)


def test_a_saved_scheduler_names_our_class_and_loads_in_a_process_that_knows_only_the_package(tmp_path: Path) -> None:
    betas = np.linspace(0.001, 0.1, 20, dtype=np.float32)
    ours = SDDDPMScheduler(20, trained_betas=betas, prediction_type="mean", variance_type="fixed_large")
    ours.save_pretrained(tmp_path / "scheduler")
    saved = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "SDDDPMScheduler"
    program = """
import json, pickle, sys
from sd_pipeline import SDDDPMScheduler
scheduler = SDDDPMScheduler.from_pretrained(sys.argv[1], subfolder="scheduler")
assert type(scheduler).__module__ == "sd_pipeline"
again = pickle.loads(pickle.dumps(scheduler))
print(json.dumps([scheduler.alphas_cumprod.tolist(), again.alphas_cumprod.tolist(), scheduler.to_json_string()]))
"""
    # A folder that is not the checkout, so that only the installed package can be found.
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    alphas_cumprod, again, config = json.loads(run.stdout.splitlines()[-1])
    assert alphas_cumprod == again == ours.alphas_cumprod.tolist()
    assert json.loads(config) == json.loads(ours.to_json_string())


def test_null_variance_type_samples_like_fixed_small() -> None:
    sample = torch.ones(1, 1, 4, 4)
    steps = [
        SDDDPMScheduler(variance_type=name)
        .step(0.5 * sample, 500, sample, generator=torch.Generator().manual_seed(0))
        .prev_sample
        for name in (None, "fixed_small")
    ]
    assert torch.equal(*steps)


def test_keys_that_only_others_know_survive(tmp_path: Path) -> None:
    stock = diffusers.PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, beta_schedule="scaled_linear")
    stock.save_pretrained(tmp_path)
    ours = SDDDPMScheduler.from_pretrained(tmp_path)
    assert ours.config["skip_prk_steps"] is True
    back = diffusers.PNDMScheduler.from_config(ours.config)
    assert back.config["skip_prk_steps"] is True
    assert back.config["set_alpha_to_one"] is False


def public(scheduler: SDDDPMScheduler) -> dict:
    return {key: value for key, value in scheduler.config.items() if key in SDDDPMScheduler().config and key[0] != "_"}
