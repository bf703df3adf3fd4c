"""A model that was pushed loads by its name, with this package and without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sd_pipeline.publishing.hub_push import check_folder
from sd_pipeline.publishing.repository import export_pipeline
from tests.components import tiny_components, tiny_unet
from tests.publishing.hub_pushes import hub, push
from tests.source_files import ROOT

__all__ = ["hub"]

pytestmark = pytest.mark.hub

PROGRAM = """
import sys
import numpy as np
import PIL.Image
import torch
name, out, with_this_package = sys.argv[1:]
if with_this_package == "no":
    sys.modules["sd_pipeline"] = None
    from diffusers import AutoPipelineForInpainting, AutoPipelineForText2Image, DiffusionPipeline
    classes = {"text": [DiffusionPipeline, AutoPipelineForText2Image], "inpaint": [AutoPipelineForInpainting]}
    if "inpainting" in name:
        classes = {"inpaint": [DiffusionPipeline, AutoPipelineForInpainting]}
else:
    from sd_pipeline import SDInpaintPipeline, SDPipeline
    classes = {"inpaint": [SDInpaintPipeline]} | ({} if "inpainting" in name else {"text": [SDPipeline]})
levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
hole = PIL.Image.new("L", (32, 32))
hole.paste(255, (0, 0, 24, 32))
inpaint = {"image": PIL.Image.fromarray(levels), "mask_image": hole}
calls = {
    "text": {"picture": {}},
    "inpaint": {"inpainted": inpaint, "inpainted latents": {**inpaint, "output_type": "latent"}},
}
# Our pipelines read it in the repository.
told = {"num_inference_steps": 2, "guidance_scale": 3.0} if with_this_package == "no" else {}
pictures = {"given": levels / 255}
for task, kinds in classes.items():
    for kind in kinds:
        pipe = kind.from_pretrained(name)
        assert type(pipe).__module__.startswith("diffusers." if with_this_package == "no" else "sd_pipeline")
        pipe.set_progress_bar_config(disable=True)
        for what, inputs in calls[task].items():
            asked = {"output_type": "np", "generator": torch.Generator().manual_seed(0), **told, **inputs}
            made = pipe("a red circle", **asked)
            pictures[f"{what}, {kind.__name__}"] = np.asarray(made.images[0])
np.savez(out, **pictures)
"""


def pictures_of(hub, name: str, place: Path, *, with_this_package: bool) -> dict[str, np.ndarray]:
    """Load a model by its name in a new process, and make a picture with everything that loads it."""
    place.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(place / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    out = str(place / "pictures.npz")
    command = [sys.executable, "-c", PROGRAM, name, out, "yes" if with_this_package else "no"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=place, check=False)
    assert run.returncode == 0, run.stderr
    with np.load(out) as stored:
        return {what: stored[what] for what in stored.files}


@pytest.mark.parametrize(("name", "in_channels"), [("somebody/model", 4), ("somebody/inpainting", 9)])
def test_one_picture_everywhere(name, in_channels, hub, tmp_path):
    folder = tmp_path / "pipeline"
    call = {"num_inference_steps": 2, "guidance_scale": 3.0}
    card = "---\nlicense: apache-2.0\n---\n# A model\n"
    components = {**tiny_components(), "unet": tiny_unet(in_channels=in_channels)}
    export_pipeline(folder, **components, recommended_call=call, card=card)
    check_folder(folder)
    push(hub, folder, repo_id=name)
    stock = pictures_of(hub, name, tmp_path / "stock", with_this_package=False)
    ours = pictures_of(hub, name, tmp_path / "ours", with_this_package=True)
    given = stock.pop("given")
    assert len(stock) == 4, "two pipelines, or one that makes a picture and latents"
    for key, picture in stock.items():
        what = key.split(",")[0]
        mine = ours[f"{what}, {'SDPipeline' if what == 'picture' else 'SDInpaintPipeline'}"]
        assert mine.std() > 0.05
        if what != "inpainted":
            assert np.abs(picture - mine).max() < 1e-5, key
            continue
        # What is kept are the given pixels here, and what the autoencoder makes of them there. The seam between both
        # reaches into the hole, which ends at column 24, as far as one latent does, 4 pixels.
        assert np.abs(picture[:, :20] - mine[:, :20]).max() < 1e-5, key
        assert np.abs(given[:, 24:] - mine[:, 24:]).max() < 1e-6
        assert np.abs(given[:, 24:] - picture[:, 24:]).max() > 1e-2
