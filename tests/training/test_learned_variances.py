"""A run whose U-Net learns the variances of its steps: stock diffusers uses them, other samplers are refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from sd_pipeline import SDPipeline
from tests.training.runs import rows, tiny_config, train, write_config

CALL = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "np"}


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["vlb", "hybrid"])
def test_a_run_with_learned_variances(objective, tmp_path):
    config = tiny_config(tmp_path / "run")
    config["diffusion"] |= {
        "objective": objective,
        "scheduler": {**config["diffusion"].get("scheduler", {}), "variance_type": "learned_range"},
    }
    train(["--config", str(write_config(tmp_path / "config.yaml", config))])
    assert ("vlb" in rows(tmp_path / "run", "diffusion")[-1]) == (objective == "hybrid")

    folder = tmp_path / "run" / "pipeline"
    ours, stock = SDPipeline.from_pretrained(folder), DiffusionPipeline.from_pretrained(folder)
    assert type(stock.scheduler).__name__ == "DDPMScheduler"
    assert ours.scheduler.config["variance_type"] == "learned_range"
    prompt = "a handwritten seven"
    image = ours(prompt, generator=torch.Generator().manual_seed(0), **CALL).images
    sides = {"height": image.shape[1], "width": image.shape[2]}
    again = stock(prompt, generator=torch.Generator().manual_seed(0), **CALL, **sides).images
    assert abs(image - again).max() <= 1e-5

    ours.scheduler = DDIMScheduler.from_config(ours.scheduler.config)
    with pytest.raises(ValueError, match=r"DDIMScheduler with variance_type None, but `unet` learns variances: a"):
        ours(prompt, **CALL)
