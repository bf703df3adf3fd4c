"""A loopback Hub, a small folder and a publisher that waits for nothing, for tests of the push."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import huggingface_hub.utils._http as client
import pytest
import torch
from safetensors.torch import save

from sd_pipeline.publishing.hub_push import Target, push_folder
from sd_pipeline.publishing.hub_retry import Backoff
from tests.loopback_hub.hub import TOKEN, Hub
from tests.loopback_hub.repositories import Commit
from tests.loopback_hub.server import loopback_hub

NAME = "somebody/model"
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}\n',
    "unet/config.json": b"{}\n",
    "unet/diffusion_pytorch_model.safetensors": save({"weight": torch.arange(200.0)}),
    "vae/diffusion_pytorch_model.safetensors": save({"weight": torch.arange(300.0)}),
}


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A Hub, and a client that may write there and does not really wait."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    # The client has retries of its own for some requests.
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=lambda seconds: None))
    with loopback_hub() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished model."""
    return write_folder(tmp_path / "pipeline", FILES)


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def push(hub: Hub, folder: Path, waits: list[float] | None = None, num_retries: int = 8, **arguments) -> str:
    """Push without waiting; `waits` notes how long it would have been."""
    waits = [] if waits is None else waits
    target = Target(arguments.pop("repo_id", NAME), arguments.pop("revision", "main"), arguments.pop("private", None))
    backoff = Backoff(num_retries, sleep=waits.append)
    return push_folder(folder, target, backoff=backoff, endpoint=hub.address, **arguments)


def commits_of(hub: Hub, branch: str = "main") -> list[Commit]:
    """List the commits of the publisher."""
    repository = hub.repositories.get(NAME)
    return (
        []
        if repository is None
        else [c for c in repository.branches[branch] if c.description.startswith("Publication")]
    )
