"""Saving in the background: a copy, one at a time, and no error lost."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors import SafetensorError

from tests.training.engine.test_checkpointing import state
from training.engine.checkpoint_writer import CheckpointWriter
from training.engine.checkpointing import TrainingState, list_checkpoints, load_checkpoint
from training.engine.disk_space import is_full_disk


def test_the_state_is_that_of_the_moment_of_saving(tmp_path):
    weight = torch.zeros(1000, 1000)
    writer = CheckpointWriter(tmp_path, None)
    writer.save(1, TrainingState({"model": {"weight": weight}}, {}))
    weight.fill_(7)
    writer.wait()
    assert load_checkpoint(tmp_path / "checkpoint-1").tensors["model"]["weight"].abs().max() == 0


def test_one_save_is_in_flight(tmp_path):
    writer = CheckpointWriter(tmp_path, 2)
    for step in (1, 2, 3, 4):
        writer.save(step, state(step))
        assert len(list(tmp_path.glob(".*.partial"))) <= 1
    writer.wait()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-4"]


def test_saving_does_not_wait_for_the_disk(tmp_path):
    big = TrainingState({"model": {"weight": torch.randn(20_000_000)}}, {})
    writer = CheckpointWriter(tmp_path, None)
    started = time.monotonic()
    writer.save(1, big)
    stalled = time.monotonic() - started
    writer.wait()
    assert stalled < (time.monotonic() - started) / 2


def test_an_error_is_raised_at_the_next_occasion(tmp_path):
    folder = tmp_path / "stage"
    folder.write_text("a file in the way")
    for occasion in ("check", "wait", "save"):
        writer = CheckpointWriter(folder, None)
        writer.save(1, state())
        writer.close()
        with pytest.raises(OSError, match="stage"):
            writer.save(2, state()) if occasion == "save" else getattr(writer, occasion)()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    writer = CheckpointWriter(tmp_path, 1)
    writer.save(1, state())
    writer.save(2, TrainingState({"model": {"layer.weight": torch.tensor([1.0, float("nan")])}}, {}))
    with pytest.raises(FloatingPointError, match=r"layer.weight has weights that are not finite after step 2"):
        writer.wait()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1"]


@pytest.mark.skipif(shutil.which("mount") is None or sys.platform != "linux", reason="no small disk to fill")
def test_a_full_disk_leaves_the_older_state(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed")
    try:
        writer = CheckpointWriter(tmp_path, 1)
        writer.save(1, state())
        writer.save(2, TrainingState({"model": {"weight": torch.randn(2_000_000)}}, {}))
        with pytest.raises((OSError, SafetensorError)) as caught:
            writer.wait()
        assert is_full_disk(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
        load_checkpoint(tmp_path / "checkpoint-1")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_told_from_other_errors():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert is_full_disk(full)
    assert is_full_disk(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_full_disk(OSError(errno.EACCES, "Permission denied"))
    assert not is_full_disk(None)
    wrapped = RuntimeError("export failed")
    wrapped.__cause__ = full
    assert is_full_disk(wrapped)
