"""The most memory that training and generation need, of this package and of diffusers, each in a fresh process.

    python benchmarks/peak_memory.py training-ours cpu

prints the bytes of one of them; `rows` starts them all.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

from benchmarks.compared_models import (
    PROMPT,
    SHAPES,
    UNET_11M,
    draw,
    ours_of_11m,
    recommended_call,
    stock_of_11m,
)
from benchmarks.machine import ROOT
from benchmarks.measurement import Conditions, Row, cost_row
from training.engine.memory import peak_memory

_BATCH_SIZE = 32
_UPDATES = 3
_IMAGES = 8
# Images in memory, as many as there are in the training of this package.
_DATA = 256


def rows(conditions: Conditions) -> list[Row]:
    """Measure the section `memory`.

    Args:
        conditions (`Conditions`): How.
    """
    notes = {
        "training": f"U-Net of 10.9 M, float32, batch {_BATCH_SIZE}; latents from the cache, diffusers encodes images",
        "generation": f"U-Net of 10.9 M, batch {_IMAGES}",
    }
    device = conditions.device.type
    where = "memory of the GPU" if device == "cuda" else "resident, Python and libraries included"
    found = []
    for name, note in notes.items():
        if conditions.is_tiny and name == "training":
            continue
        peaks: dict[str, list[float]] = {"ours": [], "stock": []}
        for _ in range(conditions.repetitions):
            for kind, values in peaks.items():
                values.append(_peak_of(f"{name}-{kind}", device) / 1e6)
        found.append(cost_row("memory", name, "MB", peaks["ours"], peaks["stock"], f"{note}; {where}"))
    return found


def _peak_of(work: str, device: str) -> int:
    command = [sys.executable, __file__, work, device]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return int(answer.split()[-1])


def train_ours(device: torch.device) -> None:
    """Train a few updates with this package's loop.

    Args:
        device (`torch.device`): Where.
    """
    # Here, and below, so that no process holds what the other one needs.
    from benchmarks.stepped_training import FixedPrecision, SteppedTrainer, kept_images, shapes_config
    from training.tasks.components import load_frozen_models
    from training.tasks.diffusion import DiffusionTask

    with tempfile.TemporaryDirectory() as folder:
        config = shapes_config(Path(folder), Conditions(1, device))
        task = DiffusionTask(config, kept_images(config), load_frozen_models(SHAPES, SHAPES, device))
        trainer = SteppedTrainer(task, config.diffusion, FixedPrecision("no", device), Path(folder))
        trainer.advance(_UPDATES)


def train_stock(device: torch.device) -> None:
    """Train as many updates with diffusers' parts, in the way of its text-to-image example.

    Args:
        device (`torch.device`): Where.
    """
    from accelerate import Accelerator
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from benchmarks.diffusers_training import DenoisingLoss, Loop

    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    unet: Any = UNet2DConditionModel(**UNET_11M)
    vae = AutoencoderKL.from_pretrained(SHAPES / "vae")
    text_encoder = CLIPTextModel.from_pretrained(SHAPES / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(SHAPES / "tokenizer")
    tokens = tokenizer(PROMPT, padding="max_length", return_tensors="pt").input_ids[0]
    images = [{"pixel_values": 2 * torch.rand(3, 64, 64) - 1, "input_ids": tokens} for _ in range(_DATA)]
    loss = DenoisingLoss(unet, vae, text_encoder, DDPMScheduler(), accelerator)
    data: Any = images
    collate: Any = default_collate
    Loop(unet, loss, data, collate, _BATCH_SIZE, accelerator, ema_decay=0.9999).advance(_UPDATES)


def generate(load: Callable[[], Any], device: torch.device) -> None:
    """Draw a batch with the recommended call of shapes-64.

    Args:
        load (`Callable`): Returns the pipeline.
        device (`torch.device`): Where.
    """
    pipeline = load().to(device)
    pipeline.set_progress_bar_config(disable=True)
    draw(pipeline, recommended_call(SHAPES), _IMAGES)


WORKS: dict[str, Callable[[torch.device], None]] = {
    "training-ours": train_ours,
    "training-stock": train_stock,
    "generation-ours": partial(generate, ours_of_11m),
    "generation-stock": partial(generate, stock_of_11m),
}


def main(arguments: Sequence[str]) -> None:
    """Do one work, and print the bytes it needed at most."""
    work, device = arguments[0], torch.device(arguments[1])
    WORKS[work](device)
    print(peak_memory(device))


if __name__ == "__main__":
    main(sys.argv[1:])
