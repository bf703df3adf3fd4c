"""The command that compares two models: what it finds, what it refuses, and that processes share its work."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDIMScheduler

from sd_pipeline import SDInpaintPipeline, SDPipeline
from tests.components import tiny_components, tiny_scheduler, tiny_unconditional_unet, tiny_unet, tiny_vae
from tests.training.runs import ROOT, TIMEOUT, environment, launch_command, tiny_config
from training.compare import main

COMPARE = ROOT / "training" / "compare.py"
ON_DIGITS = ["--dataset", "digits", "--num-images", "24"]


def save(folder: Path, **components: Any) -> Path:
    kind = SDInpaintPipeline if components.pop("inpaints", False) else SDPipeline
    kind(**{**tiny_components(), **components}).save_pretrained(folder)
    return folder


def damaged(strength: float = 0.3) -> Any:
    unet, generator = tiny_unet(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in unet.conv_out.parameters():
            parameter.add_(strength * torch.randn(parameter.shape, generator=generator))
    return unet


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[str, str]:
    """A model, and a damaged copy."""
    folder = tmp_path_factory.mktemp("models")
    return str(save(folder / "good" / "pipeline")), str(save(folder / "bad" / "pipeline", unet=damaged()))


def compared(arguments: list[str], output: Path) -> dict[str, Any]:
    assert main([*arguments, "--output", str(output)]) == 0
    found: dict[str, Any] = json.loads((output / "compare.json").read_text(encoding="utf-8"))
    return found


def test_a_model_is_no_better_than_itself(models, tmp_path, capsys):
    good, _ = models
    found = compared([good, good, *ON_DIGITS], tmp_path)
    whole = found["all"]
    assert (whole["difference"], whole["low"], whole["high"]) == (0, 0, 0)
    assert found["b_is"] == "not told apart"
    assert all(image["a"] == image["b"] > 0 for image in found["images"])
    assert [part["num_images"] for part in found["ranges"].values()] == [24] * 10
    printed = capsys.readouterr().out
    assert "no difference can be told" in printed
    assert "24 images of digits, validation, 32 pixels, each at 10 timesteps" in printed
    assert f"written: {tmp_path / 'compare.json'}" in printed


def test_damage_is_found_and_swapping_flips_the_sign(models, tmp_path):
    one, other = (compared([*pair, *ON_DIGITS], tmp_path) for pair in (models, models[::-1]))
    assert (one["b_is"], other["b_is"]) == ("worse", "better")
    assert one["verdict"].startswith("B is worse than A")
    for part in ("all", *one["ranges"]):
        first, second = (found["all"] if part == "all" else found["ranges"][part] for found in (one, other))
        assert first["difference"] == -second["difference"] > 0
        assert (first["low"], first["high"]) == (-second["high"], -second["low"])
    assert [image["a"] for image in one["images"]] == [image["b"] for image in other["images"]]
    assert len({image["name"] for image in one["images"]}) == 24


def test_batches_change_nothing_and_timesteps_are_as_many_as_asked(models, tmp_path):
    whole, parts = (compared([*models, *ON_DIGITS, "--batch-size", size], tmp_path) for size in ("24", "5"))
    assert whole["all"] == pytest.approx(parts["all"], rel=1e-4)
    few = compared([*models, *ON_DIGITS, "--num-timesteps", "3"], tmp_path)
    assert few["protocol"]["num_timesteps"] == 3
    assert sum(part["num_images"] for part in few["ranges"].values()) == 3 * 24


def test_what_is_predicted_does_not_matter(models, tmp_path):
    """Two networks of zeros: one says epsilon is 0, the other v is 0, which is another epsilon."""
    folders = []
    for kind in ("epsilon", "v_prediction"):
        unet = tiny_unet(out_channels=4)
        torch.nn.init.zeros_(unet.conv_out.weight)
        torch.nn.init.zeros_(unet.conv_out.bias)
        scheduler = tiny_scheduler(prediction_type=kind)
        folders.append(str(save(tmp_path / kind, unet=unet, scheduler=scheduler)))
    found = compared([*folders, *ON_DIGITS], tmp_path)
    assert found["protocol"]["prediction_types"] == ["epsilon", "v_prediction"]
    assert found["all"]["mean_a"] == pytest.approx(1, abs=0.05)
    assert found["b_is"] == "better"  # It goes by x_t.


def test_of_learned_variances_the_mean_counts_and_the_sampler_does_not(models, tmp_path):
    good = SDPipeline.from_pretrained(models[0])
    weights = good.unet.state_dict()
    for name in ("conv_out.weight", "conv_out.bias"):
        weights[name] = torch.cat([weights[name], torch.ones_like(weights[name])])
    unet = tiny_unet(out_channels=8)
    unet.load_state_dict(weights)
    learned = save(tmp_path / "learned", unet=unet, scheduler=tiny_scheduler(variance_type="learned_range"))
    sampled = save(tmp_path / "sampled", scheduler=DDIMScheduler.from_config(good.scheduler.config))
    for other in (learned, sampled):
        found = compared([models[0], str(other), *ON_DIGITS], tmp_path)
        assert found["all"]["difference"] == pytest.approx(0, abs=1e-6)


def test_captions_are_part_of_what_is_compared(models, tmp_path, capsys):
    """A model that takes none is allowed, and said so."""
    without = save(tmp_path / "without", unet=tiny_unconditional_unet(), text_encoder=None, tokenizer=None)
    found = compared([models[0], str(without), *ON_DIGITS], tmp_path)
    assert found["protocol"]["takes_captions"] == [True, False]
    assert "only A takes captions" in capsys.readouterr().out


def test_models_that_inpaint(tmp_path):
    """With the same holes for both."""
    folders = []
    for seed in (2, 3):
        unet = tiny_unet(seed, in_channels=9)
        folders.append(str(save(tmp_path / str(seed), unet=unet, inpaints=True)))
    found = compared([*folders, *ON_DIGITS], tmp_path)
    assert found["all"]["mean_a"] != found["all"]["mean_b"]


def test_pixels(tmp_path):
    parts = {"text_encoder": None, "tokenizer": None, "vae": None}
    unet = tiny_unconditional_unet(in_channels=3, out_channels=3, sample_size=32)
    folder = str(save(tmp_path / "pixels", unet=unet, **parts))
    found = compared([folder, folder, *ON_DIGITS, "--num-images", "2"], tmp_path)
    assert found["protocol"]["latents"] == "none, pixels"


OTHERS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "encoder": (lambda: {"vae": tiny_vae(seed=9)}, "another space of latents, its weight vae.encoder."),
    "scaling": (lambda: {"vae": tiny_vae(scaling_factor=0.5)}, "its vae.config.scaling_factor differs"),
    "pixels": (
        lambda: {"vae": None, "unet": tiny_unet(in_channels=3, out_channels=3, sample_size=32)},
        "its autoencoder differs",
    ),
    "schedule": (lambda: {"scheduler": tiny_scheduler(beta_end=0.02)}, "another noise schedule"),
    "steps": (lambda: {"scheduler": tiny_scheduler(num_train_timesteps=500)}, "(alphas_cumprod, 500 timesteps)"),
    "size": (lambda: {"unet": tiny_unet(sample_size=16)}, "makes images of 64x64 pixels"),
    "task": (lambda: {"unet": tiny_unet(in_channels=9), "inpaints": True}, "inpaints, and"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_does_not_compare_is_refused(models, tmp_path, other, capsys):
    good, _ = models
    components, message = OTHERS[other]
    folder = str(save(tmp_path / other, **components()))
    assert main([good, folder, *ON_DIGITS, "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{folder}: ")
    assert message in said.err
    assert "; allowed: " in said.err
    assert good in said.err or other == "task"
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_decoder_is_no_other_space_of_latents(models, tmp_path):
    vae = tiny_vae()
    torch.nn.init.zeros_(vae.decoder.conv_out.bias)
    folder = str(save(tmp_path / "other", vae=vae))
    assert compared([models[0], folder, *ON_DIGITS], tmp_path)["all"]["difference"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--dataset is missing: "),
        (["--dataset", "digits", "--num-images", "1"], "--num-images 1: allowed: 2 to "),
        (["--dataset", "digits", "--num-images", "9999"], "--num-images 9999: allowed: 2 to "),
        (["--dataset", "digits", "--num-timesteps", "0"], "--num-timesteps 0: allowed: at least 1"),
        (["--dataset", "digits", "--batch-size", "0"], "--batch-size 0: allowed: at least 1"),
        (["--dataset", "digits", "--resolution", "33"], "`height` is 33"),
        (["--dataset", "digits", "--output", __file__], f"--output {__file__}: {__file__} is no folder"),
        (["--dataset", "none/such"], ""),
        (["--seed", "1"], "unrecognized arguments: --seed 1"),
    ],
)
def test_bad_input_is_one_line(models, arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main([*models, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1


def as_run(folder: Path, model: str, **values: Any) -> str:
    """Make what a run leaves: its configuration, and the pipeline."""
    config = tiny_config(folder)
    config["data"] |= values.pop("data", {})
    shutil.copytree(model, folder / "pipeline")
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **values}), encoding="utf-8")
    return str(folder)


def test_a_run_brings_its_data(models, tmp_path):
    runs = [as_run(tmp_path / Path(model).parent.name, model) for model in models]
    assert main([*runs, "--num-images", "24"]) == 0
    found = json.loads((tmp_path / "bad" / "evaluation" / "compare.json").read_text())
    asked = compared([*models, *ON_DIGITS], tmp_path)
    assert found["images"] == asked["images"]
    assert (found["a"], found["b"]) == tuple(runs)


def test_images_that_the_other_run_may_have_learned_from_are_refused(models, tmp_path, capsys):
    """The seed says which images a run holds out."""
    data = {"dataset": str(tmp_path / "images"), "validation_fraction": 0.1}
    runs = [as_run(tmp_path / f"run{seed}", models[0], data=data, seed=seed) for seed in (0, 1)]
    assert main(runs) == 2
    assert capsys.readouterr().err.startswith(f"{runs[1]}: may have learned from the images that {runs[0]} held out")


def test_a_run_that_has_not_finished_is_refused(models, tmp_path, capsys):
    run = as_run(tmp_path / "run", models[0])
    shutil.rmtree(tmp_path / "run" / "pipeline")
    assert main([models[0], run, *ON_DIGITS]) == 2
    assert capsys.readouterr().err.startswith(f"{run}: is a run without a finished pipeline")


def run_by_two(command: list[str]) -> subprocess.CompletedProcess[str]:
    variables = environment(ACCELERATE_USE_CPU="true")
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT, check=False
    )


@pytest.mark.slow
def test_processes_share_the_work(models, tmp_path):
    """Five batches, so that one process has more than the other; and what is wrong is said once."""
    arguments = [*models, *ON_DIGITS, "--batch-size", "5", "--output"]
    one = compared(arguments[:-1], tmp_path / "1")
    command = [*launch_command([], 2)[:-1], str(COMPARE), *arguments, str(tmp_path / "2")]
    run = run_by_two(command)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("written:") == 1
    two = json.loads((tmp_path / "2" / "compare.json").read_text())
    del one["seconds"], two["seconds"]
    assert one == two
    run = run_by_two([*command, "--num-images", "1"])
    assert run.returncode != 0
    assert run.stderr.count("--num-images 1: allowed") == 1
