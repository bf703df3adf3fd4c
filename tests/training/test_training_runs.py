"""Whole runs of the training command as processes: from nothing to a repository, stopped, resumed, split."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from sd_pipeline import SDPipeline
from tests.training.runs import (
    ROOT,
    TIMEOUT,
    environment,
    launch_command,
    rows,
    status,
    tiny_config,
    train,
    write_config,
)
from training.engine.checkpointing import TrainingState, load_checkpoint, save_checkpoint
from training.train import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of all three stages, started through accelerate."""
    folder = tmp_path_factory.mktemp("finished")
    values = tiny_config(folder / "out")
    values["diffusion"]["pre_compute_text_embeddings"] = True
    config = write_config(folder / "run.yaml", values)
    command = launch_command(["--config", str(config)])
    process = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=TIMEOUT, cwd=folder)
    assert process.returncode == 0, process.stderr
    return config, folder / "out"


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "status.json"
    }


def test_a_run_leaves_what_it_promises(finished):
    _, out = finished
    assert status(out)["state"] == "finished"
    assert status(out)["exit_code"] == 0
    for stage in ("text_encoder", "autoencoder", "diffusion"):
        assert [row["step"] for row in rows(out, stage)] == [1, 2, 3, 4]
        assert all(row["images_per_second"] > 0 for row in rows(out, stage))
        assert (out / stage / "checkpoint-4" / "manifest.json").is_file()
    assert yaml.safe_load((out / "config.yaml").read_text())["mixed_precision"] == "no"
    assert (out / "pipeline" / "README.md").read_text().startswith("---\n")
    index = json.loads((out / "pipeline" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["_sd_pipeline"]["num_inference_steps"] == 2


def test_every_stage_with_a_loss_a_sample_tells_it_of_held_out_images(finished):
    _, out = finished
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for stage, part in (("autoencoder", "validation_kl"), ("diffusion", "validation_loss_t900_999")):
        (row,) = [line for line in lines if line["stage"] == stage and "validation_loss" in line]
        assert row["step"] == 4
        assert {"validation_loss", "validation_loss_raw", part} <= set(row)
        assert row["validation_loss"] != row["validation_loss_raw"]
    assert not any("validation_loss" in line for line in lines if line["stage"] == "text_encoder")


# The tasks that a pipeline or a model may have on the Hub, of those that there are here.
PIPELINE_TAGS = {"pipeline": "text-to-image", "text_encoder": "feature-extraction"}
PIPELINE_TAGS["autoencoder"] = "image-feature-extraction"


@pytest.mark.parametrize("stage", PIPELINE_TAGS)
def test_every_stage_has_a_whole_card(finished, stage):
    _, out = finished
    folder = out / "pipeline" if stage == "pipeline" else out / stage / "final"
    text = (folder / "README.md").read_text()
    card = ModelCard(text, ignore_metadata_errors=False)
    assert card.data.pipeline_tag == PIPELINE_TAGS[stage]
    assert card.data.library_name == ("transformers" if stage == "text_encoder" else "diffusers")
    assert card.data.license is None
    assert card.data.datasets is None
    emissions = card.data.to_dict()["co2_eq_emissions"]
    assert emissions["emissions"] > 0
    assert "cores" in emissions["hardware_used"]
    assert bool(card.data.eval_results) == (stage != "pipeline")
    shown = set(re.findall(r"!\[.+?\]\((.+?)\)", text))
    assert shown == {path.name for path in folder.glob("*.png")} > set()
    assert "could not be made" not in text
    assert str(out.parent) not in text
    assert str(Path.home()) not in text
    assert not re.search(r"\$\w|TODO|\[More", text)
    blocks = re.findall(r"```python\n(.+?)```", text, re.DOTALL)
    for block in blocks[:1] if stage != "pipeline" else []:
        exec(compile(block.replace('"final"', repr(str(folder))), "card", "exec"), {})


GENERATE = """
import sys, torch
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "sd_pipeline" or name.startswith("sd_pipeline."):
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({folder!r})
call = dict(num_inference_steps=2, guidance_scale=2.0, output_type="np")
image = pipe("a handwritten three", generator=torch.Generator().manual_seed(3), **call).images
torch.save(torch.from_numpy(image), {target!r})
"""


def test_the_result_gives_the_same_image_here_and_in_plain_diffusers(finished, tmp_path):
    _, out = finished
    code = GENERATE.format(folder=str(out / "pipeline"), target=str(tmp_path / "stock.pt"))
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=TIMEOUT, cwd=tmp_path)
    stock = torch.load(tmp_path / "stock.pt", weights_only=True)
    pipe, generator = SDPipeline.from_pretrained(out / "pipeline"), torch.Generator().manual_seed(3)
    call = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}
    ours = pipe("a handwritten three", generator=generator, **call).images
    assert (torch.from_numpy(ours) - stock).abs().max() <= 1e-4


def test_the_same_command_again_does_nothing(finished):
    config, out = finished
    before = snapshot(out)
    assert main(["--config", str(config)]) == 0
    assert snapshot(out) == before


def test_another_configuration_is_refused_and_changes_nothing(finished, capsys):
    config, out = finished
    before = snapshot(out)
    assert main(["--config", str(config), "--diffusion.learning_rate=0.5", "--seed=9"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "diffusion.learning_rate: 0.001 -> 0.5" in line
    assert "seed: 0 -> 9" in line
    assert snapshot(out) == before
    assert status(out)["state"] == "bad_input"


def copy_of(finished_out: Path, target: Path) -> Path:
    """Copy what the first two stages made, so that a run can go on from there."""
    shutil.copytree(finished_out, target)
    shutil.rmtree(target / "diffusion")
    shutil.rmtree(target / "pipeline")
    lines = (target / "metrics.jsonl").read_text().splitlines(keepends=True)
    (target / "metrics.jsonl").write_text("".join(line for line in lines if '"diffusion"' not in line))
    return target


def final_state(out: Path, step: int) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in (out / "diffusion" / f"checkpoint-{step}").glob("*.safetensors"):
        tensors.update({f"{file.stem}/{key}": value for key, value in load_file(file).items()})
    return tensors


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_to_the_bit(finished, tmp_path, num_processes):
    """A SIGTERM to the launcher's process group saves and ends; the same command again ends as if nothing had been."""
    config, out = finished
    arguments = ["--config", str(config), "--diffusion.max_train_steps=30", "--diffusion.checkpointing_steps=1000"]
    arguments.append(f"--diffusion.train_batch_size={8 // num_processes}")
    straight, stopped = copy_of(out, tmp_path / "straight"), copy_of(out, tmp_path / "stopped")
    train([*arguments, f"--output_dir={straight}"], num_processes)

    command = launch_command([*arguments, f"--output_dir={stopped}"], num_processes)
    variables = environment(**({"ACCELERATE_USE_CPU": "true"} if num_processes > 1 else {}))
    process = subprocess.Popen(command, env=variables, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + TIMEOUT
    while len(rows(stopped, "diffusion")) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=TIMEOUT)
    while status(stopped)["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.1)  # the launcher may end before its child has saved
    assert status(stopped) == {**status(stopped), "state": "stopped", "exit_code": 75}
    saved = rows(stopped, "diffusion")[-1]["step"]
    assert 5 <= saved < 30

    train([*arguments, f"--output_dir={stopped}"], num_processes)
    expected, found = final_state(straight, 30), final_state(stopped, 30)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert [(row["step"], row["loss"]) for row in rows(stopped, "diffusion")] == [
        (row["step"], row["loss"]) for row in rows(straight, "diffusion")
    ]
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert (straight / "pipeline" / name).read_bytes() == (stopped / "pipeline" / name).read_bytes()


def test_a_finished_run_can_be_made_longer(finished, tmp_path, capsys):
    config, out = finished
    longer = tmp_path / "longer"
    shutil.copytree(out, longer)
    train(["--config", str(config), f"--output_dir={longer}", "--diffusion.max_train_steps=6"])
    assert [row["step"] for row in rows(longer, "diffusion")] == [1, 2, 3, 4, 5, 6]
    assert main(["--config", str(config), f"--output_dir={longer}", "--diffusion.max_train_steps=5"]) == 2
    assert "may only grow" in capsys.readouterr().err


def test_a_stage_that_is_half_done_is_not_passed_over(finished, tmp_path, capsys):
    """Without its autoencoder the diffusion model would silently be one of pixels."""
    config, out = finished
    half = copy_of(out, tmp_path / "half")
    (half / "autoencoder" / "finished.json").unlink()
    assert main(["--config", str(config), f"--output_dir={half}", "--stages=[diffusion]"]) == 2
    assert "autoencoder" in capsys.readouterr().err
    assert not (half / "diffusion").exists()


@pytest.mark.slow
def test_two_processes_train_every_stage(tmp_path):
    """Contrastive training compares the pairs of both processes; the others synchronise their gradients.

    So do the U-Net and a text encoder that goes on learning with it.
    """
    config = tiny_config(tmp_path / "out", report_to="tensorboard")
    for stage in ("text_encoder", "autoencoder", "diffusion"):
        config[stage] |= {"train_batch_size": 4, "max_train_steps": 3}
    config["diffusion"]["train_text_encoder"] = True
    train(["--config", str(write_config(tmp_path / "run.yaml", config))], num_processes=2)
    assert len(list((tmp_path / "out" / "logs").rglob("events.*"))) == 1
    one = tiny_config(tmp_path / "one")
    for stage in ("text_encoder", "autoencoder", "diffusion"):
        one[stage] |= {"train_batch_size": 8, "max_train_steps": 3}
    one["diffusion"]["train_text_encoder"] = True
    train(["--config", str(write_config(tmp_path / "one.yaml", one))])
    for stage in ("text_encoder", "autoencoder", "diffusion"):
        pairs = zip(rows(tmp_path / "out", stage), rows(tmp_path / "one", stage), strict=True)
        assert all(abs(two["loss"] - one["loss"]) <= 1e-3 for two, one in pairs)


def test_resuming_with_another_global_batch_is_refused(finished, tmp_path, capsys):
    config, out = finished
    longer = tmp_path / "longer"
    shutil.copytree(out, longer)
    changes = ["--diffusion.max_train_steps=6", "--diffusion.train_batch_size=4"]
    assert main(["--config", str(config), f"--output_dir={longer}", *changes]) == 2
    assert "the product must stay 8" in capsys.readouterr().err


def test_a_training_state_of_another_run_is_refused(finished, tmp_path, capsys):
    """Put into the folder from elsewhere, it would go on as something that neither run is."""
    config, out = finished
    target = tmp_path / "out"
    shutil.copytree(out, target)
    shutil.rmtree(target / "diffusion" / "checkpoint-4")
    state = load_checkpoint(out / "diffusion" / "checkpoint-4")
    foreign = {**state.values["config"], "seed": 9}
    foreign["diffusion"] = {**foreign["diffusion"], "snr_gamma": 5.0}
    save_checkpoint(target / "diffusion", 4, TrainingState(state.tensors, {**state.values, "config": foreign}), None)
    assert main(["--config", str(config), f"--output_dir={target}", "--diffusion.max_train_steps=6"]) == 2
    error = capsys.readouterr().err
    assert f"{target}/diffusion/checkpoint-4" in error
    assert "diffusion.snr_gamma: 5.0 -> None" in error
    assert "seed: 9 -> 0" in error


def test_a_cache_of_another_autoencoder_is_refused(finished, tmp_path, capsys):
    """One that several runs share, made by a run whose autoencoder has other weights."""
    config, out = finished
    other = tmp_path / "other"
    shutil.copytree(out, other)
    shutil.rmtree(other / "diffusion")
    shutil.rmtree(other / "pipeline")
    weights = other / "autoencoder" / "final" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["encoder.conv_in.bias"] += 1e-3
    save_file(tensors, weights)
    before = snapshot(out / "latents")
    command = ["--config", str(config), f"--output_dir={other}", f"--diffusion.latent_cache_dir={out / 'latents'}"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert str(out / "latents") in error
    assert "differing: autoencoder" in error
    assert snapshot(out / "latents") == before


def test_an_earlier_stage_cannot_be_trained_on_under_a_later_one(finished, capsys):
    config, out = finished
    before = snapshot(out)
    assert main(["--config", str(config), "--autoencoder.max_train_steps=9"]) == 2
    assert "diffusion" in capsys.readouterr().err
    assert snapshot(out) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "changes"),
    [
        (["autoencoder", "diffusion"], {}),
        (["diffusion"], {"cache_latents": False}),
        (["text_encoder", "diffusion"], {"cache_latents": False}),
        (["text_encoder", "autoencoder", "diffusion"], {"joint": True}),
        (["text_encoder", "autoencoder", "diffusion"], {"mixed_precision": "bf16", "gradient_checkpointing": True}),
        (["text_encoder", "autoencoder", "diffusion"], {"prediction_type": "mean"}),
    ],
    ids=[
        "unconditional in latent space",
        "unconditional in pixel space",
        "text in pixel space",
        "joint text encoder",
        "bfloat16 and gradient checkpointing",
        "mean prediction, the report's first parameterisation",
    ],
)
def test_other_kinds_of_models_train_and_sample(tmp_path, stages, changes):
    changes = dict(changes)
    precision = changes.pop("mixed_precision", "no")
    config = tiny_config(tmp_path / "out", stages=stages, mixed_precision=precision)
    is_joint = changes.pop("joint", False)
    if "prediction_type" in changes:
        config["diffusion"]["scheduler"] = {"prediction_type": changes.pop("prediction_type")}
        config["evaluation"]["scheduler"] = "SDDDPMScheduler"
    config["diffusion"] |= changes
    if "text_encoder" not in stages:
        unet = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "mid_block_type": "UNetMidBlock2D"}
        config["diffusion"]["unet"] |= {**unet, "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    if is_joint:
        config["text_encoder"]["training"] = "joint"
    train(["--config", str(write_config(tmp_path / "run.yaml", config))])
    pipe = SDPipeline.from_pretrained(tmp_path / "out" / "pipeline")
    condition = {"prompt": "a handwritten one"} if "text_encoder" in stages else {"batch_size": 1}
    assert pipe(**condition).images[0].size == (32, 32)
    if is_joint:
        trained = load_file(tmp_path / "out" / "diffusion" / "checkpoint-4" / "model.safetensors")
        start = load_file(tmp_path / "out" / "text_encoder" / "final" / "text_encoder" / "model.safetensors")
        name = "encoder.layers.0.mlp.fc1.weight"
        before = next(value for key, value in start.items() if key.endswith(name))
        after = next(value for key, value in trained.items() if key.startswith("text_encoder") and key.endswith(name))
        assert not torch.equal(before, after)
