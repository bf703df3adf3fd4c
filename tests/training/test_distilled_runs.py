"""Runs that distil a finished model: to the end, on from where they stopped, and into plain diffusers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sd_pipeline import SDPipeline
from tests.components import tiny_components, tiny_unconditional_unet
from tests.training.runs import TIMEOUT, environment, rows, train, write_finetuning
from training.train import main

PROMPT = "a handwritten three"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "teacher"
    recommended = {"num_inference_steps": 8, "guidance_scale": 2.0, "eta": 1.0}
    SDPipeline(**tiny_components(), recommended_call=recommended).save_pretrained(folder)
    return folder


def run_of(teacher: Path, folder: Path, **diffusion: Any) -> Path:
    distillation = {"num_inference_steps": 2, "teacher_num_inference_steps": 4}
    return write_finetuning(teacher, folder, PROMPT, **{"distillation": distillation, **diffusion})


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    train(["--config", str(run_of(teacher, folder, max_train_steps=40))])
    return folder / "out"


def test_the_student_learns(student):
    losses = [row["loss"] for row in rows(student, "diffusion")]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    timesteps = {key for row in rows(student, "diffusion") for key in row if key.startswith("loss_t")}
    assert timesteps == {"loss_t400_499", "loss_t900_999"}


def test_the_student_is_called_as_it_has_learned(student):
    pipe = SDPipeline.from_pretrained(student / "pipeline")
    assert pipe.config["recommended_call"] == {"num_inference_steps": 2, "guidance_scale": 1.0}
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"
    pipe.scheduler.set_timesteps(2)
    assert pipe.scheduler.timesteps.tolist() == [999, 499]
    assert "num_inference_steps=2" in (student / "pipeline" / "README.md").read_text()


def test_the_student_draws_the_same_in_plain_diffusers(student, tmp_path):
    code = (
        "import torch\n"
        "from diffusers import StableDiffusionPipeline\n"
        f"pipe = StableDiffusionPipeline.from_pretrained({str(student / 'pipeline')!r})\n"
        "call = dict(num_inference_steps=2, guidance_scale=1.0, output_type='np')\n"
        f"images = pipe({PROMPT!r}, generator=torch.Generator().manual_seed(3), **call).images\n"
        f"torch.save(torch.from_numpy(images), {str(tmp_path / 'stock.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=TIMEOUT, cwd=tmp_path)
    pipe = SDPipeline.from_pretrained(student / "pipeline")
    images = pipe(PROMPT, generator=torch.Generator().manual_seed(3), output_type="np").images
    stock = torch.load(tmp_path / "stock.pt", weights_only=True)
    assert (torch.from_numpy(images) - stock).abs().max() <= 1e-4


def test_a_run_that_stopped_goes_on_to_the_same_bits(teacher, tmp_path):
    for folder, steps in (("whole", [4]), ("stopped", [2, 4])):
        for max_train_steps in steps:
            train(["--config", str(run_of(teacher, tmp_path / folder, max_train_steps=max_train_steps))])
    whole, stopped = (
        load_file(tmp_path / folder / "out" / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
        for folder in ("whole", "stopped")
    )
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in whole.items())


def test_a_student_teaches_the_next_one(student, tmp_path):
    """Without guidance, which it has learned: halving the steps again."""
    file = run_of(student / "pipeline", tmp_path, distillation={"num_inference_steps": 1})
    train(["--config", str(file)])
    pipe = SDPipeline.from_pretrained(tmp_path / "out" / "pipeline")
    assert pipe.config["recommended_call"] == {"num_inference_steps": 1, "guidance_scale": 1.0}


def test_a_teacher_that_takes_no_prompts_has_no_guidance(tmp_path, capsys):
    components = {**tiny_components(), "unet": tiny_unconditional_unet(), "text_encoder": None, "tokenizer": None}
    SDPipeline(**components).save_pretrained(tmp_path / "teacher")
    distillation = {"num_inference_steps": 2, "guidance_scale": 3.0}
    assert main(["--config", str(run_of(tmp_path / "teacher", tmp_path, distillation=distillation))]) == 2
    assert "diffusion.distillation.guidance_scale = 3.0: must be 1 or null" in capsys.readouterr().err
    train(["--config", str(run_of(tmp_path / "teacher", tmp_path, distillation={"num_inference_steps": 2}))])
    assert SDPipeline.from_pretrained(tmp_path / "out" / "pipeline").config["recommended_call"] == {
        "num_inference_steps": 2
    }
