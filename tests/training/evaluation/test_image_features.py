"""Features are those that the contrastive training computes, and Inception's where its file is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.evaluation.tiny_clip import PROJECTION_DIM, save_as_run, tiny_clip
from training.data.image_transforms import crop_and_resize, to_pixel_values
from training.evaluation.clip_judge import ClipJudge, load_clip_judge
from training.evaluation.image_features import (
    INCEPTION_FILE,
    FeaturesNotAvailableError,
    clip_image_features,
    inception_features,
)
from training.tasks.text_encoder import ContrastiveModel


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> ClipJudge:
    return load_clip_judge(str(save_as_run(tmp_path_factory.mktemp("run"), tiny_clip())))


def noise(side: int, number: int) -> list[Image.Image]:
    rng = np.random.default_rng(side)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(number)]


@pytest.mark.parametrize("side", [32, 80, 20])
def test_the_tower_sees_what_its_training_showed_it(judge, side):
    """Cropped, resized and scaled as the data set does it, whatever the batch; and nothing is normalised."""
    images = noise(side, 33)
    found = clip_image_features(judge, images)
    pixel_values = torch.stack([to_pixel_values(crop_and_resize(image, (32, 32))) for image in images])
    with torch.no_grad():
        expected = ContrastiveModel(tiny_clip()).image_embeddings(pixel_values).numpy()
    assert found.shape == (33, PROJECTION_DIM)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(found, axis=1).std() > 1e-3


class ChannelMeans(torch.nn.Module):
    """Takes what the Inception file takes, bytes and `return_features`, and is quick."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        means = images.float().mean([2, 3])
        return means if return_features and images.dtype == torch.uint8 else means * 0


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints" / INCEPTION_FILE


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_inception_where_its_file_is(hub):
    torch.jit.script(ChannelMeans()).save(str(hub))
    images = noise(16, 40)
    assert np.allclose(inception_features(images), [np.asarray(image).mean((0, 1)) for image in images], rtol=1e-4)


def test_inception_that_cannot_be_had(hub):
    with pytest.raises(FeaturesNotAvailableError, match=f"^no {INCEPTION_FILE} in .*; it is at https://"):
        inception_features(noise(16, 1))
    hub.write_bytes(b"<html>not found</html>")
    with pytest.raises(FeaturesNotAvailableError, match=f"^{INCEPTION_FILE} cannot be read: .+"):
        inception_features(noise(16, 1))
