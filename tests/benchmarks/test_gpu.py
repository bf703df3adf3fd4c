"""The measurement of a GPU, at the size that runs on a CPU."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from benchmarks import gpu, gpu_training
from benchmarks.findings import Findings
from benchmarks.gpu_sizes import SIZES

SHORT = dataclasses.replace(SIZES["tiny"], warm_seconds=0.0, timed_seconds=0.0)
CPU = torch.device("cpu")


@pytest.mark.usefixtures("quiet_libraries")
def test_everything_is_measured_once(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    arguments = ["--size", "tiny", "--no-compile", "--channels-last", "--output", str(file)]
    assert gpu.main(arguments) == 0
    content = json.loads(file.read_text())
    found = content["found"]
    assert content["failures"] == {}
    assert content["subject"]["size"] == "tiny"
    assert list(found) == ["limits", "training", "sampler, batch 1, eager", "sampler, batch 2, eager"]
    rate = found["limits"]["bfloat16_gflops"]
    assert found["training"]["fraction"] == pytest.approx(1000 * found["training"]["tflops"] / rate)
    assert found["training"]["batch_size"] == SIZES["tiny"].batch_size
    assert all(found[name]["is_finite"] for name in found if name.startswith("sampler"))

    others = {name: value for name, value in found.items() if name != "sampler, batch 1, eager"}
    file.write_text(json.dumps({**content, "found": others}))
    capsys.readouterr()
    assert gpu.main(arguments) == 0
    again = json.loads(file.read_text())["found"]
    assert again["training"] == found["training"]
    assert again.keys() == found.keys()
    assert "training: measured before" in capsys.readouterr().out

    assert gpu.main(["--size", "tiny", "--no-compile", "--output", str(file)]) == 2
    told = capsys.readouterr().err
    assert told == f"gpu.py: {file} holds measurements of another machine or of other options; give another file\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_full_size_needs_a_gpu(tmp_path, capsys):
    assert gpu.main(["--output", str(tmp_path / "gpu.json")]) == 2
    assert "needs a GPU" in capsys.readouterr().err


def test_what_does_not_fit_is_told_and_tried_otherwise(monkeypatch):
    train, tried, noted = gpu_training._train, [], {}

    def refusing(size, device, attempt, *options):
        tried.append(attempt)
        if attempt.batch_size > 1:
            raise torch.OutOfMemoryError("too much\nof it")
        return train(size, device, attempt, *options)

    monkeypatch.setattr(gpu_training, "_train", refusing)
    found = gpu_training.training_speed(SHORT, CPU, None, False, False, noted.__setitem__)
    assert found["batch_size"] * found["accumulation"] == SHORT.batch_size
    assert "fraction" not in found
    refused = noted["training, out of memory"]["attempts"]
    assert [one["batch_size"] for one in refused] == [4, 2, 4]
    assert refused[0]["failure"] == "too much"
    assert tried == gpu_training.attempts(4)[:4]


def test_nothing_fits(monkeypatch):
    def refusing(*arguments):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(gpu_training, "_train", refusing)
    with pytest.raises(torch.OutOfMemoryError):
        gpu_training.training_speed(SHORT, CPU, None, False, False, lambda name, found: None)


def test_an_update_trains_the_unet_and_moves_its_average():
    update = gpu_training.Update(SHORT, CPU, gpu_training.Attempt(2, 2, True), False, False)
    before = {name: value.clone() for name, value in update.model.state_dict().items()}
    update()
    update()
    after, average = update.model.state_dict(), update.average.state_dict()
    assert all(not torch.equal(before[name], value) for name, value in after.items() if name.endswith("weight"))
    assert int(average["optimization_step"]) == 2
    assert update.loss() < 10


def test_operations_of_stable_diffusion():
    assert SIZES["sd-1.5"].forward_flop() == pytest.approx(0.803e12, rel=1e-3)


def test_findings_survive_what_fails(tmp_path, capsys):
    file = tmp_path / "deep" / "findings.json"
    findings = Findings(file, {"sizes": (1, 2)})

    def failing():
        findings.note("part", {"seconds": 1.0})
        raise RuntimeError("no\nmore")

    findings.measure("first", lambda: {"rate": 2.5})
    findings.measure("second", failing)
    findings.measure("third", lambda: {"rate": 3})
    content = json.loads(file.read_text())
    assert content["found"] == {"first": {"rate": 2.5}, "part": {"seconds": 1.0}, "third": {"rate": 3}}
    assert content["failures"] == {"second": "RuntimeError: no more"}
    again = Findings(file, {"sizes": (1, 2)})
    again.measure("second", lambda: {"rate": 4})
    assert again.failures == {}
    assert json.loads(file.read_text())["found"].keys() == {"first", "part", "third", "second"}
    file.write_text("[]")
    with pytest.raises(ValueError, match="holds no measurements"):
        Findings(file, {})
