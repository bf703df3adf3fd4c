"""Features of images, in which sets of them are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.evaluation.clip_judge import ClipJudge

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION_FILE}"
INCEPTION_PROTOCOL = {
    "features": "last pooling",
    "network": INCEPTION_FILE,
    "image_size": 299,
    "resize_filter": "bilinear, not antialiased, within the network",
}
_BATCH = 32


class FeaturesNotAvailableError(Exception):
    """The weights of a feature network cannot be had here; the message says why and how they can."""


@torch.no_grad()
def clip_image_features(clip: ClipJudge, images: Sequence[Image.Image]) -> np.ndarray:
    """Embed images by the image tower of a CLIP: its pooled output, projected, and not normalised.

    Args:
        clip (`ClipJudge`): The CLIP.
        images (sequence of `PIL.Image.Image`): RGB, of any size.

    Returns:
        `numpy.ndarray` of shape `(len(images), projection_dim)`, float32.
    """
    parts = []
    for first in range(0, len(images), _BATCH):
        pixel_values = clip.processor(images=list(images[first : first + _BATCH]), return_tensors="pt").pixel_values
        pooled = clip.model.vision_model(pixel_values=pixel_values.to(clip.model.device)).pooler_output
        parts.append(clip.model.visual_projection(pooled).cpu())
    return torch.cat(parts).numpy()


@torch.no_grad()
def inception_features(images: Sequence[Image.Image], device: torch.device | str = "cpu") -> np.ndarray:
    """Embed images by the Inception network of Heusel et al. 2017: its last pooling.

    The network is the file `inception-2015-12-05.pt` in the folder `checkpoints` of `torch.hub.get_dir()`, NVIDIA's
    TorchScript copy of the original. It resizes inside, as the original did. It is never fetched here, so that nothing
    waits for a network; no package has it that goes without torchvision.

    Args:
        images (sequence of `PIL.Image.Image`): RGB, all of one size.
        device (`torch.device` or `str`, defaults to `"cpu"`): Where it runs.

    Returns:
        `numpy.ndarray` of shape `(len(images), 2048)`, float32.

    Raises:
        FeaturesNotAvailableError: If there is no such file, or it cannot be read.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not file.is_file():
        raise FeaturesNotAvailableError(f"no {INCEPTION_FILE} in torch.hub's checkpoints; it is at {INCEPTION_URL}")
    try:
        network = torch.jit.load(file, map_location=device).eval()
    except RuntimeError as error:
        raise FeaturesNotAvailableError(f"{INCEPTION_FILE} cannot be read: {str(error).splitlines()[0]}") from error
    parts = []
    for first in range(0, len(images), _BATCH):
        stacked = np.stack([np.asarray(image) for image in images[first : first + _BATCH]])
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).to(device)
        parts.append(network(pixels, return_features=True).float().cpu())
    return torch.cat(parts).numpy()
