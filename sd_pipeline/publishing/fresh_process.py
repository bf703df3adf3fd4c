"""A finished repository is tried out before it is sent: loaded and run in a new Python process, as a stranger would.

The process is this file (`python -m sd_pipeline.publishing.fresh_process FOLDER`). It has no network and no token.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

import sd_pipeline
from sd_pipeline.pipelines.loading import COMPONENTS
from sd_pipeline.publishing.repository_check import check_model
from sd_pipeline.publishing.repository_files import RepositoryError, read_json
from sd_pipeline.publishing.repository_trust import INDEX_FILE, check_component

TIMEOUT_SECONDS = 1800
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
# The launcher's variables would make the process one of several.
NOT_INHERITED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
NUM_STEPS = 2
PROMPT = "a picture"
SEGMENTED_SIZE = (40, 60)
# Of models that stand alone: the component as which they are checked, by what `config.json` calls them.
MODELS = {"AutoencoderKL": "vae", "clip_text_model": "text_encoder"}


def check_in_fresh_process(folder: Path) -> None:
    """Load a repository and use it once, in a new Python process without network, token or accelerator.

    Args:
        folder (`Path`): A pipeline's repository, which makes an image of two steps or segments one, or that of an
            autoencoder or a CLIP text encoder, with `config.json` at its top.

    Raises:
        RepositoryError: If it cannot be loaded, or what it makes has NaN in it.
    """
    command = [sys.executable, "-m", "sd_pipeline.publishing.fresh_process", str(folder.absolute())]
    try:
        run = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise RepositoryError(f"{folder} took more than {TIMEOUT_SECONDS} s to be loaded and used") from None
    if run.returncode != 0:
        lines = [line for line in run.stderr.splitlines() if line.strip()] or [f"exit code {run.returncode}"]
        raise RepositoryError(f"{folder} cannot be used by others: in a new process, {lines[-1].strip()}")


def usable_models(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Find what of a folder `check_in_fresh_process` can try out.

    Args:
        folder (`Path`): A finished output.
        files (sequence of `Path`): Its files, relative to it.

    Returns:
        `list[Path]`: The folder itself if it is a pipeline, else those of the models in it that can be used alone.
    """
    if Path(INDEX_FILE) in files:
        return [folder]
    configs = [folder / path for path in files if path.name == "config.json" and len(path.parts) <= 2]
    return [config.parent for config in configs if _kind(config) in MODELS]


def use_once(folder: Path) -> None:
    """Load what is in a folder and use it once.

    Args:
        folder (`Path`): See `check_in_fresh_process`.

    Raises:
        RepositoryError: If what it makes is not finite, or it is something else.
    """
    torch.manual_seed(0)
    made = _made_by_pipeline(folder) if (folder / INDEX_FILE).is_file() else _output(folder)
    if not np.isfinite(made).all():
        raise RepositoryError("what it makes has NaN or infinity in it")


def _made_by_pipeline(folder: Path) -> np.ndarray:
    kind = read_json(folder / INDEX_FILE).get("_class_name")
    if kind == "SegmentationPipeline":
        return _segmentation(folder)
    return _image(folder, inpaints=kind == "StableDiffusionInpaintPipeline")


def _segmentation(folder: Path) -> np.ndarray:
    pipe = sd_pipeline.SegmentationPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = np.random.default_rng(0).random((*SEGMENTED_SIZE, pipe.unet.config["in_channels"]), dtype=np.float32)
    output: Any = pipe(image)
    return output.probabilities[0]


def _image(folder: Path, inpaints: bool) -> np.ndarray:
    pipe_class = sd_pipeline.SDInpaintPipeline if inpaints else sd_pipeline.SDPipeline
    pipe = pipe_class.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"num_inference_steps": NUM_STEPS, "output_type": "np"}
    if pipe.text_encoder is not None:
        call["prompt"] = PROMPT
    if inpaints:
        height, width = (side or 64 for side in pipe.size_of_training())
        mask = Image.new("L", (width, height))
        mask.paste(255, (0, 0, width // 2, height))
        call |= {"image": Image.new("RGB", (width, height), "white"), "mask_image": mask}
    output: Any = pipe(**call)
    return np.asarray(output.images)


def _output(folder: Path) -> np.ndarray:
    kind = _kind(folder / "config.json")
    if kind not in MODELS:
        raise RepositoryError(f"config.json is of {kind!r}; allowed: {', '.join(MODELS)}, or a {INDEX_FILE}")
    check_component(folder)
    factory = COMPONENTS[MODELS[kind]]
    assert factory is not None, "of the components, these are models"
    check_model(folder, factory)
    with torch.no_grad():
        if kind == "AutoencoderKL":
            return _reconstruction(sd_pipeline.SDAutoencoderKL.from_pretrained(folder, use_safetensors=True))
        return _encoding(folder)


def _kind(config_file: Path) -> str:
    config = read_json(config_file)
    return str(config.get("_class_name") or config.get("model_type"))


def _reconstruction(vae: sd_pipeline.SDAutoencoderKL) -> np.ndarray:
    side = 4 * 2 ** (len(vae.config["block_out_channels"]) - 1)
    latents = vae.encode(torch.zeros(1, vae.config["in_channels"], side, side)).latent_dist.mode()
    return vae.decode(latents).sample.numpy()


def _encoding(folder: Path) -> np.ndarray:
    input_ids = torch.zeros(1, 2, dtype=torch.long)
    if (folder / "tokenizer_config.json").is_file():
        input_ids = CLIPTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt").input_ids
    model = CLIPTextModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return model(input_ids).last_hidden_state.numpy()


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if "TOKEN" not in name.upper() and not value.startswith("hf_") and name not in NOT_INHERITED
    }
    # The package that is running, wherever it lies, and no token in a file either.
    package = str(Path(sd_pipeline.__file__).absolute().parents[1])
    search = os.pathsep.join([package, *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, **OFFLINE, "PYTHONPATH": search, "CUDA_VISIBLE_DEVICES": "", "HF_TOKEN_PATH": os.devnull}


if __name__ == "__main__":
    try:
        use_once(Path(sys.argv[1]))
    except Exception as error:
        text = " ".join(str(error).split())
        sys.exit(f"{type(error).__name__}: {text}")
