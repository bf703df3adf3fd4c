"""What a person can get wrong: one clear line, exit code 2, no traceback, nothing overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.training.runs import run_training, tiny_config, write_config
from training.train import main


def expect_refusal(capsys, arguments: list[str], *fragments: str) -> None:
    """Run the command in this process, and check that it names the culprit in one line."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.strip()]
    assert len(lines) == 1, output.err
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.fixture
def run_file(tmp_path):
    """Write a tiny configuration and return a function that runs it with changes."""

    def write(**top_level) -> list[str]:
        return ["--config", str(write_config(tmp_path / "run.yaml", tiny_config(tmp_path / "out", **top_level)))]

    return write


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("--diffusion.learning_rat=1", ["diffusion.learning_rat"]),
        ("--diffusion.learning_rate=fast", ["diffusion.learning_rate", "fast"]),
        ("--diffusion.learning_rate=-1", ["diffusion.learning_rate = -1.0", "above 0"]),
        ("--autoencoder.train_batch_size=0", ["autoencoder.train_batch_size = 0", "at least 1"]),
        ("--diffusion.lr_scheduler=steep", ["diffusion.lr_scheduler", "steep", "cosine"]),
        ("--diffusion.proportion_empty_prompts=2", ["diffusion.proportion_empty_prompts = 2.0", "[0, 1]"]),
        ("--mixed_precision=fp8", ["mixed_precision", "fp8", "bf16"]),
        ("--stages=[diffusion,autoencoder]", ["stages", "in order"]),
        ("--seed=-1", ["seed = -1", "at least 0"]),
        ("--data.resolution=30", ["data.resolution = 30", "multiple of 4"]),
        ("--autoencoder.vae.latent_chanels=4", ["autoencoder.vae", "latent_chanels"]),
        ("--autoencoder.vae.norm_num_groups=3", ["autoencoder.vae", "norm_num_groups"]),
        ("--diffusion.unet.in_channels=5", ["diffusion.unet.in_channels = 5", "4"]),
        ("--diffusion.unet.layer_per_block=5", ["diffusion.unet", "layer_per_block"]),
        ("--diffusion.scheduler.prediction_type=noise", ["diffusion.scheduler", "prediction_type", "noise"]),
        ("--text_encoder.model.hidden_sizes=8", ["text_encoder.model.hidden_sizes", "hidden_size"]),
        ("--text_encoder.gradient_accumulation_steps=2", ["text_encoder.gradient_accumulation_steps", "contrastive"]),
        ("--evaluation.scheduler=DIMScheduler", ["evaluation.scheduler", "DIMScheduler", "DDIMScheduler"]),
        ("--data.dataset=/no/such/folder", ["/no/such/folder"]),
        ("--data.random_flip=sometimes", ["data.random_flip", "sometimes"]),
    ],
)
def test_impossible_values(capsys, run_file, tmp_path, override, fragments):
    expect_refusal(capsys, [*run_file(), override], *fragments)
    assert not (tmp_path / "out" / "text_encoder").exists()
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("bad_input", 2)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("data: {dataset: digits, resolutoin: 32}\noutput_dir: OUT", ["data.resolutoin", "resolution"]),
        ("dat: {dataset: digits}\noutput_dir: OUT", ["unknown key dat", "data"]),
        ("data: digits\noutput_dir: OUT", ["data = 'digits'", "block"]),
        ("output_dir: OUT", ["data.dataset"]),
        ("data: {dataset: digits}", ["output_dir"]),
        ("data: {dataset: digits\n", ["not valid YAML"]),
        ("- data", ["must hold a mapping"]),
    ],
)
def test_wrong_files(capsys, tmp_path, text, fragments):
    file = tmp_path / "run.yaml"
    file.write_text(text.replace("OUT", str(tmp_path / "out")))
    expect_refusal(capsys, ["--config", str(file)], *fragments)


def test_a_missing_file(capsys, tmp_path):
    expect_refusal(capsys, ["--config", str(tmp_path / "none.yaml")], "none.yaml", "cannot be read")


def image_folder(folder: Path, *, captions: bool = True) -> Path:
    folder.mkdir()
    rows = []
    for number in range(4):
        Image.new("RGB", (40, 40), (50 * number, 20, 20)).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", **({"text": f"shade {number}"} if captions else {})})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_an_empty_data_set(capsys, run_file, tmp_path):
    (tmp_path / "empty").mkdir()
    expect_refusal(capsys, run_file(data={"dataset": str(tmp_path / "empty"), "resolution": 32}), "empty")


def test_a_corrupt_image(capsys, run_file, tmp_path):
    folder = image_folder(tmp_path / "images")
    content = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(content[: len(content) // 2])
    data = {"dataset": str(folder), "resolution": 32}
    expect_refusal(capsys, run_file(data=data), "2.png")


def test_a_missing_caption_column(capsys, run_file, tmp_path):
    folder = image_folder(tmp_path / "images", captions=False)
    expect_refusal(capsys, run_file(data={"dataset": str(folder), "resolution": 32}), "text")


def test_an_empty_caption(capsys, run_file, tmp_path):
    folder = image_folder(tmp_path / "images")
    text = (folder / "metadata.jsonl").read_text().replace("shade 3", " ")
    (folder / "metadata.jsonl").write_text(text)
    expect_refusal(capsys, run_file(data={"dataset": str(folder), "resolution": 32}), "3.png")


def test_a_folder_of_something_else_is_left_alone(capsys, run_file, tmp_path):
    arguments = run_file()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    expect_refusal(capsys, arguments, "thesis.txt", "config.yaml")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_latent_cache_in_a_folder_of_something_else(capsys, run_file, tmp_path):
    """It is needed in the last stage, and refused before the first."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    arguments = [*run_file(), f"--diffusion.latent_cache_dir={tmp_path / 'mine'}"]
    expect_refusal(capsys, arguments, "diffusion.latent_cache_dir", "thesis.txt", "cache.json")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "status.json"]


def test_an_output_folder_that_is_a_file(capsys, run_file, tmp_path):
    arguments = run_file()
    (tmp_path / "out").write_text("a file")
    expect_refusal(capsys, arguments, "output_dir")
    assert (tmp_path / "out").read_text() == "a file"


def test_cross_attention_without_text(capsys, run_file):
    expect_refusal(capsys, run_file(stages=["autoencoder", "diffusion"]), "diffusion.unet", "CrossAttnDownBlock2D")


def test_a_missing_pretrained_text_encoder(capsys, run_file):
    arguments = run_file()
    arguments += ["--text_encoder.training=frozen", "--text_encoder.pretrained_model_name_or_path=/no/model"]
    expect_refusal(capsys, arguments, "text_encoder.pretrained_model_name_or_path", "/no/model")


def test_the_process_prints_one_line_and_ends_with_2(tmp_path):
    config = write_config(tmp_path / "run.yaml", tiny_config(tmp_path / "out"))
    process = run_training(["--config", str(config), "--diffusion.snr_gamma=-5"])
    assert process.returncode == 2
    assert "diffusion.snr_gamma = -5.0" in process.stderr
    assert "Traceback" not in process.stderr
    shutil.rmtree(tmp_path / "out")
