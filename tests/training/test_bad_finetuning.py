"""What a run that goes on from a finished model refuses: one line, exit code 2, before any long work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sd_pipeline import SDPipeline
from tests.components import tiny_components, tiny_unet
from tests.training.runs import write_config
from training.train import main


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    SDPipeline(**tiny_components()).save_pretrained(folder / "base")
    SDPipeline(**{**tiny_components(), "unet": tiny_unet(in_channels=9)}).save_pretrained(folder / "inpaints")
    broken = tiny_components()
    SDPipeline(**broken).save_pretrained(folder / "broken")
    (folder / "broken" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    return folder


def config_of(folder: Path, model: Path | str, data: dict[str, Any], diffusion: dict[str, Any], **top: Any) -> str:
    content = {
        "output_dir": str(folder / "out"),
        "report_to": "none",
        "stages": ["diffusion"],
        "data": {"dataset": "digits", "resolution": 32, **data},
        "diffusion": {"max_train_steps": 1, "pretrained_model_name_or_path": str(model), **diffusion},
        **top,
    }
    return str(write_config(folder / "run.yaml", content))


@pytest.mark.parametrize(
    ("model", "data", "diffusion", "top", "fragments"),
    [
        ("no/model", {}, {}, {}, ["diffusion.pretrained_model_name_or_path", "no/model"]),
        ("broken", {}, {}, {}, ["diffusion.pretrained_model_name_or_path", "vae"]),
        ("base", {"resolution": 30}, {}, {}, ["data.resolution = 30", "multiple of 4"]),
        ("base", {}, {"unet": {"block_out_channels": [8]}}, {}, ["diffusion.unet", "left out"]),
        ("base", {}, {}, {"stages": ["autoencoder", "diffusion"]}, ["stages", "['diffusion']"]),
        ("base", {}, {"lora": {"rank": -1}}, {}, ["diffusion.lora.rank = -1"]),
        ("base", {}, {"lora": {"rank": 4, "lora_alpha": 0.0}}, {}, ["diffusion.lora.lora_alpha = 0.0"]),
        ("base", {}, {"lora": {"rank": 4, "lora_dropout": 1.0}}, {}, ["diffusion.lora.lora_dropout = 1.0"]),
        ("base", {}, {"lora": {"rank": 4, "target_modules": []}}, {}, ["diffusion.lora.target_modules = []"]),
        ("base", {}, {"lora": {"rank": 4, "target_modules": ["to_q", "to_x"]}}, {}, ["target_modules", "'to_x'"]),
        ("base", {}, {"lora": {"rank": 4, "rnak": 3}}, {}, ["diffusion.lora.rnak"]),
        ("base", {}, {"lora": {"rank": 4}, "inpainting": True}, {}, ["diffusion.lora.rank = 4", "must be 0"]),
        (
            "base",
            {},
            {"lora": {"rank": 4}, "scheduler": {"prediction_type": "v_prediction"}},
            {},
            ["diffusion.scheduler", "noise schedule of their model"],
        ),
        ("base", {}, {"cache_latents": True, "inpainting": True}, {}, ["diffusion.cache_latents"]),
        ("base", {}, {"scheduler": {"prediction_type": "other"}}, {}, ["diffusion.scheduler", "other"]),
        ("base", {"shape_pairs": [["ring", "green"]]}, {}, {}, ["data.shape_pairs"]),
        (
            "base",
            {"dataset": "shapes", "shape_pairs": [["ring", "pink"]]},
            {},
            {},
            ["pairs are ['ring', 'pink']", "[ring, green]"],
        ),
        ("inpaints", {}, {}, {}, ["diffusion.inpainting = False", "trained to inpaint"]),
    ],
)
def test_one_line(models, tmp_path, capsys, model, data, diffusion, top, fragments):
    place = models / model if (models / model).is_dir() else model
    assert main(["--config", config_of(tmp_path, place, data, diffusion, **top)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "components" not in line and line.strip()]
    for fragment in fragments:
        assert fragment in line
    assert not (tmp_path / "out" / "diffusion").exists()


def test_adapters_need_a_model(tmp_path, capsys):
    arguments = ["--data.dataset=digits", f"--output_dir={tmp_path / 'out'}", "--diffusion.lora.rank=4"]
    assert main(arguments) == 2
    assert "diffusion.lora.rank = 4: must be 0 without" in capsys.readouterr().err
