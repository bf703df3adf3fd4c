"""The memory of a segmentation is that of a tile, of the image and of what is returned."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from sd_pipeline import SegmentationPipeline, SegmentationUNet
from tests.source_files import ROOT

SIDE = 4000
LIMIT = 2 * 10**9

SEGMENT = """
import sys
import torch
from sd_pipeline import SegmentationPipeline
from sd_pipeline.pipelines.segmentation_overlay import overlay
from training.engine.memory import peak_memory
pipe = SegmentationPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
with open("/proc/self/status") as file:
    loaded = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
output = pipe(sys.argv[2], tile_size=572)
segmented = peak_memory(torch.device("cpu"))
overlay(sys.argv[2], output.instances[0])
overlaid = peak_memory(torch.device("cpu"))
print(*output.labels[0].shape, segmented - 1024 * loaded, overlaid - 1024 * loaded)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_large_images_from_files(tmp_path):
    torch.manual_seed(0)
    SegmentationPipeline(unet=SegmentationUNet(block_out_channels=(8, 16, 32, 64, 128))).save_pretrained(
        tmp_path / "m"
    )
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32), 4)
    Image.fromarray(np.clip(noise / noise.std() * 50 + 128, 0, 255).astype(np.uint8)).save(tmp_path / "cells.tif")
    command = [sys.executable, "-c", SEGMENT, str(tmp_path / "m"), str(tmp_path / "cells.tif")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=1800)
    assert run.returncode == 0, run.stderr
    height, width, segmented, overlaid = map(int, run.stdout.split())
    assert (height, width) == (SIDE, SIDE)
    # Image and probabilities of two classes in float32, labels and instances; the rest is a tile's.
    assert SIDE**2 * (3 * 4 + 1 + 4) < segmented < LIMIT
    assert overlaid < LIMIT
