"""The main job at full length: the digits, from nothing to a model whose digits are recognised."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.training.runs import ROOT, environment, launch_command


@pytest.mark.slow
def test_the_digits_are_learned(tmp_path):
    out = tmp_path / "digits"
    command = launch_command(["--config", str(ROOT / "configs" / "digits.yaml"), f"--output_dir={out}"])
    variables = environment()
    del variables["OMP_NUM_THREADS"]
    subprocess.run(command, env=variables, check=True, timeout=1800, cwd=ROOT)
    model = ["--model", str(out / "pipeline"), "--card"]
    bits = ["bits", "--dataset=digits", "--num-prompts=40", "--num-timesteps=20"]
    for suite in (["digits"], bits):
        evaluate = [sys.executable, str(ROOT / "training" / "evaluate_model.py"), *model, "--suite", *suite]
        subprocess.run(evaluate, env=variables, check=True, timeout=600, cwd=ROOT)
    results = json.loads((out / "evaluation" / "digits.json").read_text())
    assert results["protocol"]["num_prompts"] == 200
    assert results["protocol"]["num_inference_steps"] <= 25
    assert results["recognised"] >= 180
    assert results["autoencoder_psnr_held_out"] >= 22
    assert (out / "evaluation" / "digits.png").is_file()
    found = json.loads((out / "evaluation" / "bits.json").read_text())["bits_per_dimension"]
    # Eight are what a level costs without any knowledge; the histogram knows where digits are.
    assert found["with its caption"]["mean"] < found["histogram of each pixel"]["mean"] < 8
    # The diffusion model knows more of the latents than N(0, I) does, even with its bound's slack.
    assert found["without a caption"]["mean"] < found["autoencoder with its own prior"]["mean"]
    assert "### bits" in (out / "pipeline" / "README.md").read_text()
