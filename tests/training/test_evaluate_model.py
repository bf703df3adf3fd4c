"""The command that measures a model: what it writes, where, what it refuses, and that processes share its work."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from sd_pipeline import SDPipeline
from tests.components import tiny_components, tiny_scheduler, tiny_unconditional_unet, tiny_vae
from tests.secrets import leaks
from tests.training.evaluation.tiny_clip import save_as_run, tiny_clip
from tests.training.runs import ROOT, TIMEOUT, environment, launch_command
from training.evaluate_model import main
from training.evaluation.results_folder import default_output

EVALUATE = ROOT / "training" / "evaluate_model.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "pipeline"
    pipe = SDPipeline(**tiny_components(), recommended_call={"num_inference_steps": 2, "guidance_scale": 2.0})
    pipe.save_pretrained(folder)
    return folder


def read(file: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return results


def test_shapes(model, capsys):
    assert main(["--model", str(model), "--suite", "shapes", "--num-prompts", "2", "--scheduler", "dpm++"]) == 0
    printed = capsys.readouterr().out
    results = read(model.parent / "evaluation" / "shapes.json")
    assert results["model"] == str(model)
    protocol = results["protocol"]
    assert (protocol["scheduler"], protocol["num_inference_steps"]) == ("DPMSolverMultistepScheduler", 2)
    assert "DPMSolverMultistepScheduler, 2 steps, guidance scale 2, seed 0" in printed
    assert "2 prompts of each split" in printed
    assert (model.parent / "evaluation" / "shapes.png").is_file()


def test_digits(model, tmp_path, capsys):
    """And the seconds of the stages, of a model that lies in a run."""
    finished = model.parent / "diffusion" / "finished.json"
    finished.parent.mkdir()
    finished.write_text('{"seconds": 12.0}')
    command = [
        "--model",
        str(model),
        "--suite",
        "digits",
        "--num-prompts",
        "10",
        "--output",
        str(tmp_path / "a" / "b"),
    ]
    assert main(command) == 0
    assert read(tmp_path / "a" / "b" / "digits.json")["seconds"]["diffusion"] == 12
    assert "seconds, diffusion" in capsys.readouterr().out
    assert (tmp_path / "a" / "b" / "digits.png").is_file()


def test_captions_name_their_data_set(model, tmp_path):
    save_as_run(model.parent, tiny_clip())
    command = ["--model", str(model), "--suite", "captions", "--dataset", "digits", "--num-prompts", "8"]
    assert main([*command, "--output", str(tmp_path)]) == 0
    protocol = read(tmp_path / "captions.json")["protocol"]
    told = {"dataset": "digits", "dataset_split": "validation", "image_column": "image", "caption_column": "text"}
    assert {name: protocol[name] for name in told} == told


def test_captions_tell_the_hub_what_was_measured(model, tmp_path):
    """Beside the results of another suite on data of the same name; measured again, they take their own place."""
    clip = save_as_run(tmp_path / "judge", tiny_clip()).parent / "text_encoder" / "final" / "clip"
    folder = Path(shutil.copytree(model, tmp_path / "run" / "pipeline"))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# mine\n\n## Results\n\nNothing yet.\n")
    common = ["--model", str(folder), "--output", str(tmp_path / "out"), "--card"]
    captions = [*common, "--suite", "captions", "--dataset", "digits", "--clip", str(clip)]
    assert main([*common, "--suite", "digits", "--num-prompts", "10"]) == 0
    assert main([*captions, "--num-prompts", "8"]) == 0
    assert main([*captions, "--num-prompts", "30"]) == 0
    card = (folder / "README.md").read_text()
    measured = read(tmp_path / "out" / "captions.json")
    of_clip = measured["distances"]["clip"]["generated_to_real"]
    assert leaks(card.encode(), [str(tmp_path)]) == []
    results = ModelCard(card).data.eval_results
    assert [result.metric_type for result in results] == [
        "accuracy",
        "clip_score",
        "frechet_distance",
        "kernel_distance",
    ]
    values = [measured["clip_score"]["generated"]["mean"], of_clip["frechet"], of_clip["kernel"]]
    for result, value in zip(results[1:], values, strict=True):
        assert result.metric_value == pytest.approx(value, rel=1e-3)
        assert (result.task_type, result.dataset_type, result.dataset_split) == (
            "text-to-image",
            "digits",
            "validation",
        )
        assert result.dataset_name == "digits, 30 captions"
    told = "Frechet distance of 30 generated and as many real images, features of the CLIP clip"
    assert results[2].metric_name == told
    assert "### captions" in card
    assert "### digits" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "shape"], "argument --suite: invalid choice: 'shape'"),
        (["--suite", "shapes", "--num-prompts", "0"], "--num-prompts 0: allowed: at least 1"),
        (["--suite", "digits", "--num-prompts", "15"], "--num-prompts 15: allowed for digits: multiples of 10"),
        (["--suite", "shapes", "--num-inference-steps", "0"], "`num_inference_steps` is 0"),
        (["--suite", "shapes", "--batch-size", "0"], "--batch-size 0: allowed: at least 1"),
        (["--suite", "shapes", "--clip", "x"], "--clip: allowed only with --suite captions"),
        (["--suite", "shapes", "--output", __file__], f"--output {__file__}: {__file__} is no folder"),
        (["--suite", "captions"], "--dataset is missing"),
        (["--suite", "captions", "--dataset", "digits", "--num-prompts", "1"], "--num-prompts 1: allowed"),
    ],
)
def test_bad_input_is_one_line(model, arguments, message, capsys):
    assert main(["--model", str(model), *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1


def test_models_that_cannot_be_measured(tmp_path, capsys):
    assert main(["--model", str(tmp_path / "none"), "--suite", "shapes"]) == 2
    unconditional = SDPipeline(unet=tiny_unconditional_unet(), vae=tiny_vae(), scheduler=tiny_scheduler())
    unconditional.save_pretrained(tmp_path / "model")
    capsys.readouterr()
    for suite in ("shapes", "digits"):
        assert main(["--model", str(tmp_path / "model"), "--suite", suite]) == 2
        assert capsys.readouterr().err == (
            f"{tmp_path / 'model'}: takes no prompts as text; allowed: text-to-image models\n"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_results_lie_beside_a_run_and_in_no_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("run/pipeline", "package/pretrained/shapes-64", "pretrained/shapes-64"):
        Path(folder).mkdir(parents=True)
    assert default_output("run/pipeline") == tmp_path / "run" / "evaluation"
    monkeypatch.chdir(tmp_path / "run" / "pipeline")
    assert default_output(".") == tmp_path / "run" / "evaluation"
    monkeypatch.chdir(tmp_path)
    outputs = Path("outputs") / "evaluation"
    assert default_output("owner/model") == outputs / "model"
    for packaged in ("pretrained/shapes-64", "package/pretrained/shapes-64", tmp_path / "pretrained" / "shapes-64"):
        assert default_output(str(packaged)) == outputs / "shapes-64"


def evaluated_by_two(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [*launch_command([], 2)[:-1], str(EVALUATE), *arguments]
    variables = environment(ACCELERATE_USE_CPU="true")
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "num_prompts"), [("shapes", 3), ("digits", 20)])
def test_processes_share_the_work(model, tmp_path, suite, num_prompts):
    """Three batches, so that one process has more than the other."""
    batch_size = 4 if suite == "shapes" else 8
    arguments = ["--model", str(model), "--suite", suite, "--num-prompts", str(num_prompts)]
    arguments += ["--batch-size", str(batch_size), "--output"]
    assert main([*arguments, str(tmp_path / "1")]) == 0
    run = evaluated_by_two([*arguments, str(tmp_path / "2")])
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("written:") == 1
    one, two = (read(tmp_path / number / f"{suite}.json") for number in ("1", "2"))
    del one["seconds"], two["seconds"]
    assert one == two
    pictures = [(tmp_path / number / f"{suite}.png").read_bytes() for number in ("1", "2")]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_bad_input_is_told_once(model):
    run = evaluated_by_two(["--model", str(model), "--suite", "digits", "--num-prompts", "15"])
    assert run.returncode != 0
    assert run.stderr.count("allowed for digits: multiples of 10") == 1
