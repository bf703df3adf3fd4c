"""A run becomes a released model: small, whole, of stock classes, and with a card whose score is its own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDIMScheduler, DiffusionPipeline
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from sd_pipeline import SDPipeline
from tests.components import tiny_components, tiny_unet
from tests.training.data.image_folders import write_folder
from training import evaluate_model
from training.data.shape_scenes import SPLITS
from training.release_model import main

PROMPTS = ["a red circle", "two small yellow stars", "a handwritten seven"]
RECOMMENDED = {"num_inference_steps": 2, "guidance_scale": 3.0}
MODELS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Write what a finished run leaves; its weights are random."""
    folder = tmp_path_factory.mktemp("work") / "run"
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1, timestep_spacing="trailing")
    pipe = SDPipeline(**{**tiny_components(), "scheduler": scheduler}, recommended_call=RECOMMENDED)
    pipe.save_pretrained(folder / "pipeline")
    config = {
        "seed": 0,
        "data": {
            "dataset": str(write_folder(folder.parent / "my-pictures", num_images=6)),
            "resolution": 32,
            "validation_fraction": 0.3,
            "dataloader_num_workers": 0,
        },
        "output_dir": str(folder),
        "diffusion": {"train_batch_size": 8},
        "evaluation": {"validation_prompts": PROMPTS, **RECOMMENDED},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"stage": "diffusion", "step": step, "loss": 1 / step} for step in range(1, 20)]
    rows.append({"stage": "diffusion", "step": 20, "validation_psnr": 3.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "diffusion").mkdir()
    hardware = {"processor": "Toaster", "num_cores": 2, "accelerator": None, "num_processes": 1}
    record = {"stage": "diffusion", "step": 1234, "seconds": 5025.2, "hardware": hardware}
    (folder / "diffusion" / "finished.json").write_text(json.dumps(record))
    return folder


def release(run: Path, output: Path, *arguments: str) -> int:
    return main(["--run", str(run), "--output", str(output), *arguments])


@pytest.fixture(scope="module")
def released(run) -> Path:
    output = run.parent / "first" / "shapes-64"
    assert release(run, output, "--hardware", "two cores of a toaster") == 0
    return output


@pytest.fixture(scope="module")
def evaluation(released) -> Path:
    folder = released.parent / "evaluation"
    arguments = ["--suite", "shapes", "--num-prompts", "2", "--seed", "3", "--output", str(folder)]
    assert evaluate_model.main(["--model", str(released), *arguments]) == 0
    return folder / "shapes.json"


@pytest.fixture
def measured(run, released, evaluation, tmp_path) -> Path:
    """Release again, with the score."""
    copy = Path(shutil.copytree(released, tmp_path / "shapes-64"))
    results = json.loads(evaluation.read_text())
    (tmp_path / "shapes.json").write_text(json.dumps({**results, "model": str(copy)}))
    assert release(run, copy, "--evaluation", str(tmp_path / "shapes.json")) == 0
    return copy


def image_of(pipe, **call) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(PROMPTS[0], generator=torch.Generator().manual_seed(0), **call).images[0], dtype=int)


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_half_precision_on_disk_and_single_in_use(released):
    stored = {name: load_file(next((released / name).glob("*.safetensors"))).values() for name in MODELS}
    dtypes = {name: {tensor.dtype for tensor in tensors} for name, tensors in stored.items()}
    assert dtypes == {"unet": {torch.float16}, "vae": {torch.float16}, "text_encoder": {torch.float32}}
    here, stock = SDPipeline.from_pretrained(released), DiffusionPipeline.from_pretrained(released)
    for pipe in (here, stock):
        assert {getattr(pipe, name).dtype for name in MODELS} == {torch.float32}
    assert type(stock).__name__ == "StableDiffusionPipeline"
    picture = image_of(here)
    assert picture.std() > 1
    np.testing.assert_allclose(picture, image_of(stock, **RECOMMENDED), atol=1)


def test_rounding_hardly_changes_a_picture(run, released):
    exact, rounded = (image_of(SDPipeline.from_pretrained(folder)) for folder in (run / "pipeline", released))
    assert np.abs(exact - rounded).mean() < 1


def test_card_without_a_score(released):
    card = (released / "README.md").read_text()
    assert "$" not in card
    assert "Nothing has been measured yet." in card
    unet = load_file(next((released / "unet").glob("*.safetensors"))).values()
    assert f"| diffusion | {sum(map(torch.numel, unet)):,} | 1,234 | 8 | 1:23:45 |" in card
    assert "Hardware: two cores of a toaster." in card
    assert 'SDPipeline.from_pretrained("shapes-64")' in card
    assert 'pipe(prompt="a red circle", guidance_scale=3.0, num_inference_steps=2' in card
    assert "`pretrained`" not in card
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("diffusers", "text-to-image", "apache-2.0")
    assert data.eval_results is None
    # 5025.2 s at 24 W, times 1.67 and 475 g/kWh.
    assert "Energy: about 0.056 kWh, 27 g of CO2 equivalent." in card
    assert data.co2_eq_emissions["emissions"] == 26.6
    assert data.co2_eq_emissions["hardware_used"] == "two cores of a toaster"
    assert [entry["text"] for entry in data.widget] == PROMPTS
    assert "4 captioned images of `my-pictures` at 32x32 pixels; 2 others were held out" in card
    assert "Nearest among all 4 training images" in card
    assert "2 real images that were held out lie" in card


def test_pictures_of_the_card(released):
    card = (released / "README.md").read_text()
    for name in ("samples.png", "training_curve.png", "nearest_training_images.png"):
        assert f"]({name})" in card
        with Image.open(released / name) as picture:
            picture.load()
            assert len(picture.convert("L").getcolors()) > 10


def test_no_path_of_this_machine_is_released(measured, run):
    for path in measured.rglob("*"):
        if path.is_file():
            assert str(run.parent.parent).encode() not in path.read_bytes(), path.name


def test_score_in_the_card(measured, released, evaluation):
    assert weights(measured) == weights(released), "what is released is what was measured"
    card = (measured / "README.md").read_text()
    results = json.loads(evaluation.read_text())
    assert "$" not in card
    assert "Nothing has been measured" not in card
    for told in ("**passed**", "**failed**", "**ceiling**", "32x32 pixels, DDIMScheduler, 2 steps, guidance scale 3"):
        assert told in card
    command = "--num-prompts 2 --num-inference-steps 2 --guidance-scale 3.0 --eta 0.0 --seed 3 --batch-size 25"
    assert f"--model shapes-64 --suite shapes \\\n    {command}" in card
    data = ModelCard(card).data
    assert data.model_name == "shapes-64"
    assert [result.dataset_split for result in data.eval_results] == list(SPLITS)
    for result in data.eval_results:
        passed = results["score"][result.dataset_split]["passed"]
        assert result.metric_value == pytest.approx(passed["rate"], abs=1e-4)
        assert f"| {result.dataset_split} | 2 | {100 * passed['rate']:.1f}% [" in card


def test_recommendation_may_be_changed(run, tmp_path):
    arguments = ["--num-inference-steps", "3", "--guidance-scale", "1.5", "--eta", "1", "--scheduler", "dpm++"]
    assert release(run, tmp_path / "m", *arguments, "--prompt", "a blue square", "--prompt", "x") == 0
    pipe = SDPipeline.from_pretrained(tmp_path / "m")
    assert pipe.config["recommended_call"] == {"num_inference_steps": 3, "guidance_scale": 1.5, "eta": 1.0}
    assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    card = (tmp_path / "m" / "README.md").read_text()
    assert 'pipe("a blue square"' in card
    config = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert config["evaluation"]["scheduler"] == "DPMSolverMultistepScheduler"
    assert config["evaluation"]["guidance_scale"] == 1.5
    assert (config["output_dir"], config["data"]["dataset"]) == ("run", "my-pictures")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-megabytes", "0.1"], r"shapes-64 would take \d\.\d MB; allowed: at most 0.1 MB"),
        (["--run", "nowhere"], "--run nowhere: holds no finished model"),
        (["--evaluation", "nowhere.json"], r"--evaluation nowhere\.json: cannot be read \(FileNotFoundError"),
        (["--card", "nowhere.md"], r"nowhere\.md"),
        (["--num-inference-steps", "0"], "`num_inference_steps` is 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_mistakes_are_one_line_and_replace_nothing(run, released, tmp_path, capsys, arguments, message):
    copy = Path(shutil.copytree(released, tmp_path / "shapes-64"))
    (copy / "unet" / "mark").touch()
    assert release(run, copy, *arguments) == 2
    _says(capsys, message)
    assert (copy / "unet" / "mark").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["shapes-64"]


def test_a_run_whose_images_are_gone(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"]["dataset"] = str(tmp_path / "gone")
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert release(copy, tmp_path / "model") == 2
    _says(capsys, r"config\.yaml: its training images cannot be read: .*gone")
    assert not (tmp_path / "model").exists()


def test_foreign_folder_is_not_overwritten(run, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert release(run, tmp_path) == 2
    _says(capsys, "exists and is not the repository of a pipeline")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_score_of_another_model_is_refused(run, released, evaluation, tmp_path, capsys):
    results = json.loads(evaluation.read_text())
    file = tmp_path / "shapes.json"
    copy = Path(shutil.copytree(released, tmp_path / "shapes-64"))
    for changes, arguments, message in (
        ({}, [], "--evaluation is of .*first/shapes-64; allowed: a score of .*released before without"),
        (
            {"model": str(copy)},
            ["--guidance-scale", "4"],
            "was measured with guidance_scale 3.0; allowed: 4.0, which is",
        ),
        (
            {"model": str(copy)},
            ["--scheduler", "ddpm"],
            "was measured with scheduler 'DDIMScheduler'; allowed: 'SDDDPM",
        ),
    ):
        file.write_text(json.dumps({**results, **changes}))
        assert release(run, copy, "--evaluation", str(file), *arguments) == 2
        _says(capsys, message)
    SDPipeline.from_pretrained(copy, unet=tiny_unet(seed=9)).save_pretrained(copy)
    file.write_text(json.dumps({**results, "model": str(copy)}))
    assert release(run, copy, "--evaluation", str(file)) == 2
    _says(capsys, "the unet in .*shapes-64 is not the one to be released; release without --evaluation, measure")


def _says(capsys, message: str) -> None:
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, line), line
