"""A model that was pushed loads by its name, with this package and without it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from sd_pipeline.publishing.hub_push import check_folder
from sd_pipeline.publishing.repository import export_pipeline
from tests.components import tiny_components
from tests.publishing.hub_pushes import NAME, hub, push
from tests.source_files import ROOT

__all__ = ["hub"]

pytestmark = pytest.mark.hub

STOCK = """
import sys
sys.modules["sd_pipeline"] = None
import numpy as np
import PIL.Image
import torch
from diffusers import AutoPipelineForInpainting, AutoPipelineForText2Image, DiffusionPipeline
name, out = sys.argv[1:]
pictures = []
image, mask = PIL.Image.new("RGB", (32, 32), "red"), PIL.Image.new("L", (32, 32), 255)
for kind, inputs in (
    (DiffusionPipeline, {}),
    (AutoPipelineForText2Image, {}),
    (AutoPipelineForInpainting, {"image": image, "mask_image": mask, "height": 32, "width": 32}),
):
    pipe = kind.from_pretrained(name)
    assert type(pipe).__module__.startswith("diffusers.")
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": torch.Generator().manual_seed(0), **inputs}
    pictures.append(pipe("a red circle", output_type="np", **call).images[0])
np.savez(out, *pictures)
"""
OURS = """
import sys
import numpy as np
import torch
from sd_pipeline import SDPipeline
name, out = sys.argv[1:]
pipe = SDPipeline.from_pretrained(name)
pipe.set_progress_bar_config(disable=True)
np.savez(out, pipe("a red circle", generator=torch.Generator().manual_seed(0), output_type="np").images[0])
"""


def pictures_of(program: str, hub, place) -> list[np.ndarray]:
    place.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(place / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", program, NAME, str(place / "pictures.npz")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, cwd=place, check=False)
    assert run.returncode == 0, run.stderr
    with np.load(place / "pictures.npz") as stored:
        return [stored[name] for name in stored.files]


def test_one_picture_everywhere(hub, tmp_path):
    folder = tmp_path / "pipeline"
    call = {"num_inference_steps": 2, "guidance_scale": 3.0}
    card = "---\nlicense: apache-2.0\n---\n# A model\n"
    export_pipeline(folder, **tiny_components(), recommended_call=call, card=card)
    check_folder(folder)
    push(hub, folder)
    plain, automatic, inpainted = pictures_of(STOCK, hub, tmp_path / "stock")
    (own,) = pictures_of(OURS, hub, tmp_path / "ours")
    assert np.array_equal(plain, automatic)
    assert inpainted.shape == plain.shape
    assert np.abs(own - plain).max() < 1e-5
