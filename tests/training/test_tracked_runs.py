"""A real run that is cut, resumed and tracked by all three trackers at once."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.secrets import leaks, leaks_of_folder
from tests.training import wandb_file
from tests.training.configurations import WITHOUT_TEXT, tiny_train_config
from tests.training.runs import ROOT, rows, run_training, tiny_config, write_config
from training.tasks.timestep_sampling import draw_timesteps

pytestmark = pytest.mark.slow

TOKEN = "hf_" + "aB3dE6gH9j" * 3
WANDB_KEY = "0123456789abcdef" * 2 + "01234567"
STEPS, BATCH = 5, 8
PICTURED = [2, 3, 4, 5]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Three steps, of which the last state is lost, so that the third is done again; then two more."""
    folder = tmp_path_factory.mktemp("tracked")
    config = tiny_config(Path("out"), stages=["diffusion"], report_to=["tensorboard", "wandb", "trackio"])
    changes = {"max_train_steps": 3, "checkpointing_steps": 2, "validation_steps": 2, "cache_latents": False}
    config["diffusion"] |= {**changes, "unet": WITHOUT_TEXT, "lr_scheduler": "constant", "lr_warmup_steps": 0}
    write_config(folder / "run.yaml", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRACKIO_DIR", raising=False)
        for name, value in (("WANDB_MODE", "offline"), ("HF_TOKEN", TOKEN), ("WANDB_API_KEY", WANDB_KEY)):
            patch.setenv(name, value)
        variables = {"PYTHONPATH": str(ROOT)}
        process = run_training(["--config", "run.yaml"], cwd=folder, **variables)
        assert process.returncode == 0, process.stderr
        printed = process.stdout + process.stderr
        shutil.rmtree(folder / "out" / "diffusion" / "checkpoint-3")
        arguments = ["--config", "run.yaml", f"--diffusion.max_train_steps={STEPS}"]
        process = run_training(arguments, cwd=folder, **variables)
        assert process.returncode == 0, process.stderr
        assert "goes on from checkpoint-2" in process.stdout
        (folder / "printed.txt").write_text(printed + process.stdout + process.stderr)
    return folder / "out"


def of_tensorboard(logs: Path) -> tuple[list[dict[str, Any]], list[tuple[int, Image.Image]], str]:
    events = EventAccumulator(str(logs / "sd_pipeline"), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    by_step: list[dict[str, Any]] = []
    for tag in events.Tags()["scalars"]:
        by_step += [{"step": event.step, tag: event.value} for event in events.Scalars(tag)]
    images = events.Images("diffusion/samples")
    pictures = [(event.step, Image.open(io.BytesIO(event.encoded_image_string))) for event in images]
    (text,) = events.Tensors("config/text_summary")
    return by_step, pictures, text.tensor_proto.string_val[0].decode()


def of_wandb(logs: Path) -> tuple[list[dict[str, Any]], list[tuple[int, Image.Image]], str]:
    files = sorted((logs / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1, "a resumed run is the same run"
    logged = [(row, file.parent / "files") for file in files for row in wandb_file.history(file)]
    pictures = [
        (row["step"], Image.open(folder / row["diffusion/samples/path"]))
        for row, folder in logged
        if "diffusion/samples/path" in row
    ]
    return [row for row, _ in logged], pictures, json.dumps(wandb_file.config(files[0]))


def of_trackio(logs: Path) -> tuple[list[dict[str, Any]], list[tuple[int, Image.Image]], str]:
    with sqlite3.connect(logs / "trackio" / "sd_pipeline.db") as database:
        logged = database.execute("SELECT run_id, run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        ((config,),) = database.execute("SELECT CAST(config AS TEXT) FROM configs").fetchall()
    assert len({(run_id, name) for run_id, name, _, _ in logged}) == 1, "a resumed run is the same run"
    found = [{"step": step, **json.loads(metrics)} for _, _, step, metrics in logged]
    media = logs / "trackio" / "media"
    pictures = [
        (row["step"], Image.open(media / row["diffusion/samples"]["file_path"]))
        for row in found
        if "diffusion/samples" in row
    ]
    return found, pictures, config


TRACKERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "trackio": of_trackio}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_numbers_arrive_once(out, tracker):
    """Each number of each row, at its step, also that of a step that was done twice."""
    tracked, _, _ = TRACKERS[tracker](out / "logs")
    expected = rows(out, "diffusion")
    assert [row["step"] for row in expected] == list(range(1, STEPS + 1))
    names = set().union(*expected) - {"stage", "step"}
    assert {"loss", "grad_norm", "learning_rate", "images_per_second", "peak_memory_gb"} < names
    assert any(name.startswith("loss_t") for name in names)
    for name in names:
        got = [(row["step"], row[f"diffusion/{name}"]) for row in tracked if f"diffusion/{name}" in row]
        wanted = [(row["step"], row[name]) for row in expected if name in row]
        assert [step for step, _ in got] == [step for step, _ in wanted]
        for (step, value), (_, other) in zip(got, wanted, strict=True):
            measured = name in ("images_per_second", "peak_memory_gb") and step == 3  # done twice, measured twice
            assert measured or value == pytest.approx(other, rel=1e-6), (name, step)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_pictures_arrive_once(out, tracker):
    _, pictures, _ = TRACKERS[tracker](out / "logs")
    assert [step for step, _ in pictures] == PICTURED
    for step, picture in pictures:
        saved = Image.open(out / "diffusion" / "validation" / f"samples-{step}.png")
        assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(saved.convert("RGB")))


@pytest.mark.parametrize("tracker", TRACKERS)
def test_the_configuration_arrives(out, tracker):
    _, _, text = TRACKERS[tracker](out / "logs")
    for part in ("max_train_steps", "AttnDownBlock2D", "digits"):
        assert part in text


def test_nothing_private_is_written(out):
    """In no byte of the run's folder or of what it printed, in no name of a file, and not where a link leads to."""
    kinds = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert kinds >= {".db", ".wandb", ".png", ".safetensors", ".json", ".jsonl", ".yaml"}
    assert any(path.name.startswith("events.") for path in out.rglob("*"))
    private = [TOKEN, WANDB_KEY, str(out.parent)]
    assert leaks_of_folder(out, private) == {}
    assert leaks((out.parent / "printed.txt").read_bytes(), private) == []


def test_the_losses_by_timestep_average_to_the_loss(out):
    """Weighted by the samples of each range, which follow from the samples' numbers."""
    config = tiny_train_config()
    for row in rows(out, "diffusion"):
        numbers = range((row["step"] - 1) * BATCH, row["step"] * BATCH)
        timesteps = draw_timesteps(config.diffusion, config.seed, numbers, 1000)
        total, counted = 0.0, 0
        for name, mean in row.items():
            if name.startswith("loss_t"):
                first, last = map(int, name.removeprefix("loss_t").split("_"))
                count = int(((timesteps >= first) & (timesteps <= last)).sum())
                total, counted = total + count * mean, counted + count
        assert counted == BATCH
        assert total / BATCH == pytest.approx(row["loss"], rel=1e-6)
