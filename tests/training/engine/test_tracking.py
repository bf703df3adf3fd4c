"""Rows, pictures and trackers."""

from __future__ import annotations

import json

import pytest
from accelerate import Accelerator
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.config import ConfigError
from training.engine.task import Validation
from training.engine.trackers import check_installed, start_trackers
from training.engine.tracking import MetricsLog, StageReport


@pytest.fixture
def metrics(tmp_path):
    return MetricsLog(tmp_path / "metrics.jsonl")


def rows(metrics: MetricsLog) -> list[dict]:
    return [json.loads(line) for line in metrics.file.read_text().splitlines()]


def test_rewinding_drops_what_will_be_done_again(metrics):
    metrics.rewind("diffusion", 0)
    assert not metrics.file.exists()
    for stage in ("autoencoder", "diffusion"):
        for step in range(1, 6):
            metrics.write(stage, step, loss=0.5)
    metrics.rewind("diffusion", 3)
    expected = [("autoencoder", step) for step in range(1, 6)] + [("diffusion", step) for step in range(1, 4)]
    assert [(row["stage"], row["step"]) for row in rows(metrics)] == expected
    metrics.rewind("diffusion", 3)
    assert [(row["stage"], row["step"]) for row in rows(metrics)] == expected


def test_a_row_that_a_crash_cut_is_dropped(metrics):
    metrics.write("diffusion", 1, loss=0.5)
    with metrics.file.open("a") as stream:
        stream.write('{"stage": "diffusion", "st')
    metrics.rewind("diffusion", 1)
    metrics.write("diffusion", 2, loss=0.25)
    assert rows(metrics) == [
        {"stage": "diffusion", "step": 1, "loss": 0.5},
        {"stage": "diffusion", "step": 2, "loss": 0.25},
    ]


def report_of(metrics, tmp_path, accelerator, step: int = 0) -> StageReport:
    return StageReport("diffusion", step, 10, 8, accelerator, metrics, tmp_path / "pictures")


def test_a_report_writes_rows_and_pictures(metrics, tmp_path, capsys):
    report = report_of(metrics, tmp_path, Accelerator(cpu=True))
    for step in (1, 2):
        report.advance()
        report.row(step, {"loss": 1 / step, "learning_rate": 1e-3})
    report.validation(2, Validation({"psnr": 20.0}, {"samples": Image.new("RGB", (4, 4), "red")}))
    report.close()

    first, second, validation = rows(metrics)
    assert (first["stage"], first["step"], first["loss"]) == ("diffusion", 1, 1.0)
    assert second["images_per_second"] > 0
    assert validation == {"stage": "diffusion", "step": 2, "validation_psnr": 20.0}
    assert Image.open(tmp_path / "pictures" / "samples-2.png").getpixel((0, 0)) == (255, 0, 0)
    progress = capsys.readouterr().err
    assert "diffusion" in progress
    assert "2/10" in progress


def test_images_a_second_are_those_since_the_last_row(metrics, tmp_path, monkeypatch):
    times = iter([100.0, 102.0, 107.0])
    monkeypatch.setattr("training.engine.tracking.time.monotonic", lambda: next(times))
    report = report_of(metrics, tmp_path, Accelerator(cpu=True), step=3)
    report.row(4, {"loss": 1.0})
    report.row(9, {"loss": 1.0})
    report.close()
    assert [row["images_per_second"] for row in rows(metrics)] == [8 / 2, 5 * 8 / 5]


def test_a_resumed_report_continues_the_rows(metrics, tmp_path):
    for step in (1, 2, 3):
        metrics.write("diffusion", step, loss=0.5)
    report_of(metrics, tmp_path, Accelerator(cpu=True), step=2).close()
    assert [row["step"] for row in rows(metrics)] == [1, 2]


def test_trackers_are_not_given_again_what_is_done_again(metrics, tmp_path):
    """After a crash: the rows are rewound, and a tracker has got the third step already."""
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=str(tmp_path / "logs"))
    start_trackers(accelerator, tmp_path / "logs", "run", {"seed": 3})
    for first, last, resumed_at in ((1, 3, 0), (2, 4, 1)):
        report = report_of(metrics, tmp_path, accelerator, step=resumed_at)
        for step in range(first, last + 1):
            report.row(step, {"loss": float(step)})
            report.validation(step, Validation({}, {"samples": Image.new("RGB", (4, 4))}))
        report.close()
    accelerator.end_training()
    assert [row["step"] for row in rows(metrics)] == [1, 2, 3, 4]
    events = EventAccumulator(str(tmp_path / "logs" / "sd_pipeline"))
    events.Reload()
    assert [event.step for event in events.Scalars("diffusion/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Images("diffusion/samples")] == [1, 2, 3, 4]


def test_a_tracker_that_is_not_installed_is_refused():
    check_installed(["tensorboard"])
    with pytest.raises(ConfigError, match=r"report_to = 'no_such_tracker'.*pip install no_such_tracker"):
        check_installed(["tensorboard", "no_such_tracker"])


def test_a_tracker_that_does_not_start_is_refused_in_one_line(tmp_path, monkeypatch):
    """wandb, not logged in, where nobody can be asked."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    accelerator = Accelerator(cpu=True, log_with="wandb")
    with pytest.raises(ConfigError, match=r"report_to = \['wandb'\]: .*wandb login") as raised:
        start_trackers(accelerator, tmp_path / "logs", "run", {})
    assert "\n" not in str(raised.value)


def test_a_validation_without_numbers_writes_no_row(metrics, tmp_path):
    report = report_of(metrics, tmp_path, Accelerator(cpu=True))
    report.validation(2, Validation())
    report.close()
    assert not metrics.file.exists()


def test_tensorboard_gets_numbers_and_pictures(metrics, tmp_path):
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=str(tmp_path / "logs"))
    accelerator.init_trackers("sd_pipeline")
    report = report_of(metrics, tmp_path, accelerator)
    report.row(1, {"loss": 0.5})
    report.validation(1, Validation({"psnr": 20.0}, {"samples": Image.new("L", (4, 4))}))
    report.close()
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "logs" / "sd_pipeline"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("diffusion/loss")] == [(1, 0.5)]
    assert [event.value for event in events.Scalars("diffusion/validation_psnr")] == [20.0]
    assert [event.step for event in events.Images("diffusion/samples")] == [1]
