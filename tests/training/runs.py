"""Tiny but real runs of the training command, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "training" / "train.py"
TIMEOUT = 300


def tiny_config(output_dir: Path, **top_level: Any) -> dict[str, Any]:
    """Make a configuration whose three stages take a few seconds."""
    optimisation = {"max_train_steps": 4, "train_batch_size": 8, "logging_steps": 1, "learning_rate": 1e-3}
    return {
        "output_dir": str(output_dir),
        "report_to": "none",
        "data": {"dataset": "digits", "resolution": 32},
        "text_encoder": {
            **optimisation,
            "vocab_size": 600,
            "projection_dim": 8,
            "model": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "max_position_embeddings": 12,
            },
            "vision_model": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "patch_size": 16,
            },
        },
        "autoencoder": {
            **optimisation,
            "vae": {
                "block_out_channels": [4, 8, 8],
                "down_block_types": ["DownEncoderBlock2D"] * 3,
                "up_block_types": ["UpDecoderBlock2D"] * 3,
                "layers_per_block": 1,
                "norm_num_groups": 4,
            },
        },
        "diffusion": {
            **optimisation,
            "lr_scheduler": "cosine",
            "lr_warmup_steps": 2,
            "cache_latents": True,
            "unet": {
                "block_out_channels": [8, 16],
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
                "layers_per_block": 1,
                "attention_head_dim": 2,
                "norm_num_groups": 4,
            },
        },
        "evaluation": {
            "num_inference_steps": 2,
            "guidance_scale": 2.0,
            "validation_prompts": ["a handwritten seven"],
        },
        **top_level,
    }


def tiny_segmentation(output_dir: Path, **top_level: Any) -> dict[str, Any]:
    """Make a configuration of a segmentation that takes a few seconds."""
    return {
        "output_dir": str(output_dir),
        "report_to": "none",
        "stages": ["segmentation"],
        "data": {"dataset": "cells", "num_samples": 4, "resolution": 32, "random_flip": True},
        "segmentation": {
            "unet": {"block_out_channels": [4, 8], "dropout": 0.1},
            "class_names": ["background", "cell"],
            "max_train_steps": 4,
            "train_batch_size": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
        },
        **top_level,
    }


def write_config(file: Path, config: dict[str, Any]) -> Path:
    """Write a configuration as YAML."""
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


def write_finetuning(model: Path, folder: Path, prompt: str, **diffusion: Any) -> Path:
    """Write the configuration of a run of four updates that goes on from a model; its output is `folder / "out"`."""
    settings = {
        "pretrained_model_name_or_path": str(model),
        "max_train_steps": 4,
        "train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "checkpointing_steps": 2,
    }
    config = {
        "output_dir": str(folder / "out"),
        "report_to": "none",
        "stages": ["diffusion"],
        "data": {"dataset": "digits", "resolution": 32},
        "diffusion": {**settings, **diffusion},
        "evaluation": {"validation_prompts": [prompt]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    return write_config(folder / "run.yaml", config)


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a training process: two threads at most, nothing of the network."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}


def launch_command(arguments: Sequence[str], num_processes: int = 1) -> list[str]:
    """Build the command of a run under accelerate; more processes talk over gloo."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--dynamo_backend", "no"]
    launcher += ["--mixed_precision", "no", "--num_processes", str(num_processes)]
    if num_processes > 1:
        launcher += ["--multi_gpu", "--main_process_port", "0"]
    return [*launcher, str(TRAIN), *arguments]


def run_training(
    arguments: Sequence[str], num_processes: int = 1, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the training command to its end."""
    if num_processes > 1:
        variables = {"ACCELERATE_USE_CPU": "true", **variables}
    if num_processes == 1:
        command = [sys.executable, str(TRAIN), *arguments]
    else:
        command = launch_command(arguments, num_processes)
    return subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, timeout=TIMEOUT, cwd=cwd, check=False
    )


def train(arguments: Sequence[str], num_processes: int = 1, **variables: str) -> None:
    """Train to a good end: alone in this process, which has imported everything already, or in new ones."""
    if num_processes > 1 or variables:
        process = run_training(arguments, num_processes, **variables)
        assert process.returncode == 0, process.stderr
        return
    # Not above: the scripts of tests import this module, and need no trainer.
    from accelerate.state import AcceleratorState

    from training.train import main

    AcceleratorState._reset_state(reset_partial_state=True)  # The last run may have had another precision.
    assert main(arguments) == 0


def run_script(script: Path, num_processes: int, *arguments: str, **variables: str) -> None:
    """Run a script of a test in some processes that talk over gloo, and see that it succeeds."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, *launcher, str(script), *arguments],
        env=environment(ACCELERATE_USE_CPU="true", **variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert process.returncode == 0, process.stderr


def rows(output_dir: Path, stage: str) -> list[dict[str, Any]]:
    """Read a stage's rows of `metrics.jsonl`, those of logged steps only."""
    lines = (output_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["stage"] == stage and "loss" in row]


def status(output_dir: Path) -> dict[str, Any]:
    """Read `status.json`."""
    content: dict[str, Any] = json.loads((output_dir / "status.json").read_text(encoding="utf-8"))
    return content
