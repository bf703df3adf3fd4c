"""Signals to real runs, whoever gets them under whatever launcher, and a folder that is in use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.runs import (
    ROOT,
    TIMEOUT,
    TRAIN,
    environment,
    launch_command,
    rows,
    run_training,
    status,
    tiny_config,
    write_config,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def long_config(tmp_path: Path, **changes: int) -> Path:
    """Write a run of one stage, in pixel space, that is stopped long before its end."""
    config = tiny_config(tmp_path / "out", stages=["diffusion"])
    config["diffusion"] |= {
        "max_train_steps": 100_000,
        "checkpointing_steps": 100_000,
        "cache_latents": False,
        **changes,
    }
    unet = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "mid_block_type": "UNetMidBlock2D"}
    config["diffusion"]["unet"] |= {**unet, "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    return write_config(tmp_path / "run.yaml", config)


def start(config: Path, num_processes: int, launcher: bool, *arguments: str) -> subprocess.Popen[str]:
    line = ["--config", str(config), *arguments]
    command = launch_command(line, num_processes) if launcher else [sys.executable, str(TRAIN), *line]
    variables = environment(**({"ACCELERATE_USE_CPU": "true"} if num_processes > 1 else {}))
    return subprocess.Popen(
        command, env=variables, cwd=ROOT, text=True, start_new_session=True, stderr=subprocess.PIPE
    )


def wait_until(condition, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def has_trained(out: Path, steps: int = 3) -> bool:
    return (out / "metrics.jsonl").is_file() and len(rows(out, "diffusion")) >= steps


def trainers_below(pid: int) -> list[int]:
    """Find the processes that train among the children of a launcher, in the order of their start."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sorted(c for c in map(int, children) if os.fsencode(str(TRAIN)) in Path(f"/proc/{c}/cmdline").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_processes", "launcher", "number", "target", "workers"),
    [
        (1, False, signal.SIGINT, "process", 0),
        (1, False, signal.SIGTERM, "group", 2),
        (1, True, signal.SIGTERM, "process", 0),
        (1, True, signal.SIGINT, "group", 1),
        (2, True, signal.SIGTERM, "process", 0),
        (2, True, signal.SIGINT, "group", 1),
        (2, True, signal.SIGTERM, "second rank", 0),
    ],
)
def test_a_signal_saves_and_stops(tmp_path, num_processes, launcher, number, target, workers):
    config, out = long_config(tmp_path), tmp_path / "out"
    process = start(config, num_processes, launcher, f"--data.dataloader_num_workers={workers}")
    try:
        wait_until(lambda: has_trained(out), process)
        if target == "group":
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid if target == "process" else trainers_below(process.pid)[-1], number)
        _, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.terminate()  # A launcher that has ended takes no notice.
    deadline = time.monotonic() + 60
    while status(out)["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.1)  # a launcher may end before its child has saved
    assert status(out) | {"message": ""} == {"state": "stopped", "exit_code": 75, "message": ""}, errors
    step = rows(out, "diffusion")[-1]["step"]
    assert (out / "diffusion" / f"checkpoint-{step}" / "manifest.json").is_file()
    if not launcher:
        assert process.returncode == 75
        assert "Traceback" not in errors


@pytest.mark.slow
def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    """The second command says so in one line; the first one goes on, and its status stays its own."""
    config, out = long_config(tmp_path), tmp_path / "out"
    process = start(config, 1, False)
    try:
        wait_until(lambda: has_trained(out), process)
        second = run_training(["--config", str(config)])
        assert second.returncode == 2
        (line,) = second.stderr.splitlines()
        assert str(out) in line
        assert "another process is training there" in line
        broken = run_training(["--config", str(config), "--seed=minus"])
        assert broken.returncode == 2
        assert status(out)["state"] == "running"
        before = len(rows(out, "diffusion"))
        wait_until(lambda: len(rows(out, "diffusion")) > before, process)
        # The lock dies with its holder, however that dies.
        process.kill()
        process.communicate(timeout=TIMEOUT)
        process = start(config, 1, False)
        wait_until(lambda: has_trained(out, 1), process)
    finally:
        process.kill()
        process.communicate()


def test_a_signal_before_there_is_anything_to_save(tmp_path):
    config, out = long_config(tmp_path), tmp_path / "out"
    process = start(config, 1, False)
    wait_until(lambda: (out / ".lock").exists(), process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75, errors
    assert "stopped by SIGTERM" in errors
    assert status(out)["state"] == "stopped"
