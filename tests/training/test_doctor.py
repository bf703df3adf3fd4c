"""The doctor: what is wrong with a run is in its table, with a mend, and nothing is left behind."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from tests.training.configurations import config_of
from tests.training.data.image_folders import cut, write_image, write_metadata
from tests.training.runs import ROOT, TIMEOUT, environment, tiny_config, write_config
from training.data.clip_tokenizer import train_clip_tokenizer
from training.diagnosis.caption_check import check_captions
from training.diagnosis.data_check import check_images, training_source
from training.diagnosis.estimates import disk_finding, latent_cache_bytes, time_finding
from training.diagnosis.finding import Finding, Level, findings_table
from training.diagnosis.rehearsal import RehearsedStage, shortened
from training.doctor import folder_findings

STAGE = RehearsedStage("diffusion", 0.5, 4 * 2**20, 2**20, 2**30)


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures, with one of every fault."""
    place = tmp_path / "images"
    rows = []
    for number in range(20):
        write_image(place / f"{number:02}.png", number, (16, 16) if number == 7 else (40, 40))
        rows.append({"file_name": f"{number:02}.png", "text": f"picture number {number}"})
    cut(place / "03.png")
    (place / "05.png").write_bytes((place / "04.png").read_bytes())
    rows[6]["text"] = " "
    rows[8]["text"] = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    write_metadata(place, rows)
    return place


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


@pytest.mark.parametrize(("on_bad_sample", "level"), [("error", Level.ERROR), ("skip", Level.WARNING)])
def test_faults_of_images_are_found(folder, on_bad_sample, level):
    config = config_of({"data": {"dataset": str(folder)}, "output_dir": "out"})
    source = training_source(config.data)
    findings, usable = check_images(source, 32, on_bad_sample)
    found = by_subject(findings)
    assert len(usable) == 18
    assert found["bad samples"].level is level
    assert "03.png" in found["bad samples"].found
    assert "06.png" in found["bad samples"].found
    assert "04.png" in found["identical images"].found
    assert "05.png" in found["identical images"].found
    assert "1 groups have several captions" in found["identical images"].found
    assert "07.png (16 x 16)" in found["small images"].found
    assert all(finding.mend for finding in findings)


def test_faults_of_captions_are_found():
    captions = ["a b c", "a b c", " ".join("abcdefghijklmnop")]
    findings = check_captions(captions, train_clip_tokenizer(captions, 600, 12))
    assert "1 captions are longer than 12 tokens" in by_subject(findings)["long captions"].found
    (_, alone) = check_captions(["same"] * 5, train_clip_tokenizer(["same"], 600, 12))
    assert alone.level is Level.WARNING
    assert check_captions([], train_clip_tokenizer(["same"], 600, 12)) == []


def test_estimates_add_up(tmp_path):
    config = config_of({"data": {"dataset": "digits"}, "output_dir": str(tmp_path / "out")})
    assert config.diffusion.max_train_steps == 10_000
    hours = 10_000 * 0.5 / 3600
    finding = time_finding(config, [STAGE], 3.0)
    assert f"cost about {3 * hours:.2f}" in finding.found
    # Two states that are kept and one that is being written, and a result beside the one it replaces.
    expected = 3 * STAGE.checkpoint_bytes + 2 * STAGE.result_bytes + 1000
    assert f"{expected / 2**30:.2f} GiB will be written" in disk_finding(config, [STAGE], 1000).found
    enormous = dataclasses.replace(STAGE, checkpoint_bytes=2**60)
    assert disk_finding(config, [enormous], 0).level is Level.ERROR
    assert latent_cache_bytes(10, (4, 8, 8)) == 10 * 2 * 4 * 8 * 8 * 4


def test_a_rehearsal_has_the_models_and_batches_of_the_run(tmp_path):
    config = config_of(tiny_config(tmp_path / "out"))
    short = shortened(config, tmp_path / "elsewhere", 2)
    assert short.output_dir == str(tmp_path / "elsewhere")
    for stage in config.stages:
        assert short.stage(stage).max_train_steps == 2
        assert short.stage(stage).train_batch_size == config.stage(stage).train_batch_size
    assert (short.diffusion.unet, short.autoencoder.vae) == (config.diffusion.unet, config.autoencoder.vae)


def test_an_output_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    (finding,) = folder_findings(config_of(tiny_config(tmp_path)))
    assert finding.level is Level.ERROR
    assert "thesis.txt" in finding.found


def test_the_table_ends_with_what_matters_most():
    findings = [
        Finding(Level.ERROR, "disk", "full " * 30, "free some space"),
        Finding(Level.FINE, "memory", "enough"),
    ]
    lines = findings_table(findings).splitlines()
    assert lines[1].split() == ["fine", "memory", "enough", "nothing", "to", "do"]
    assert lines[2].startswith("error")
    assert max(map(len, lines)) < 125


@pytest.mark.slow
def test_the_command(folder, tmp_path):
    config = tiny_config(tmp_path / "out", data={"dataset": str(folder), "resolution": 32})
    file = write_config(tmp_path / "run.yaml", config)
    command = [sys.executable, str(ROOT / "training" / "doctor.py"), "--config", str(file)]
    codes = {}
    for choice in ("error", "skip"):
        process = subprocess.run(
            [*command, f"--data.on_bad_sample={choice}", "--price_per_hour=2"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        codes[choice] = process.returncode
        for stage in ("text_encoder", "autoencoder", "diffusion"):
            assert f"{stage} " in process.stdout, process.stderr
        for subject in ("bad samples", "identical images", "small images", "long captions", "memory", "disk", "cost"):
            assert subject in process.stdout
        assert process.stdout.count("a real step, a save, a load and an export") == 3
    assert codes == {"error": 2, "skip": 0}
    assert not (tmp_path / "out").exists()
    broken = subprocess.run(
        [*command, "--diffusion.unet.layers_per_block=-1"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert broken.returncode == 2
    assert "diffusion.unet" in broken.stdout
    assert "Traceback" not in broken.stderr
