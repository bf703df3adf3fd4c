"""How far two images are apart in the features of a network (Zhang et al. 2018, without learned weights)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel
from transformers.utils import cached_file

from sd_pipeline.stock_weights import safetensors_folder
from training.config import ConfigError

MISSING_CLIP = (
    "autoencoder.perceptual.scale: needs a network to compare images with: a contrastive text encoder trained before "
    "(stages, text_encoder.training), or autoencoder.perceptual.model_name_or_path"
)
_KEY = "autoencoder.perceptual.model_name_or_path"


class PerceptualDistance(nn.Module):
    """A frozen network whose features are compared; gradients flow to the second image.

    d(x, y) = mean over layers and positions of |f(x) / |f(x)| - f(y) / |f(y)||^2, f the channels at a position.

    Args:
        network (`torch.nn.Module`): Vision model of transformers that returns `hidden_states`.
        image_mean (sequence of `float`): Of pixels in [0, 1], as the network was trained.
        image_std (sequence of `float`): Likewise; a half each leaves pixel values in [-1, 1] as they are.
    """

    image_mean: torch.Tensor
    image_std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        image_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        image_std: tuple[float, ...] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.register_buffer("image_mean", torch.tensor(image_mean).view(1, -1, 1, 1))
        self.register_buffer("image_std", torch.tensor(image_std).view(1, -1, 1, 1))

    def features(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Return the normalised features of every layer.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): In [-1, 1]; resized to the size
                that the network was made for, if it was made for one.

        Returns:
            `list` of `torch.Tensor` of shape `(batch_size, positions, channels)`, float32, of unit length.
        """
        images = pixel_values.float()
        size = getattr(self.network.config, "image_size", None)
        if size is not None and images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", align_corners=False, antialias=True)
        images = ((images + 1) / 2 - self.image_mean) / self.image_std
        with torch.autocast(images.device.type, enabled=False):
            layers = self.network(pixel_values=images, output_hidden_states=True).hidden_states[1:]
        positions = [layer.flatten(2).transpose(1, 2) if layer.ndim == 4 else layer for layer in layers]
        return [F.normalize(layer.float(), dim=-1) for layer in positions]

    def forward(self, pixel_values: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """Compare images with their reconstructions.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Images, in [-1, 1].
            decoded (`torch.Tensor`, same shape): Reconstructions; the gradient flows to them.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`, float32, in [0, 4].
        """
        with torch.no_grad():
            expected = self.features(pixel_values)
        pairs = zip(expected, self.features(decoded), strict=True)
        distances = [(one - other).square().sum(-1).mean(-1) for one, other in pairs]
        return torch.stack(distances).mean(0)


def load_perceptual_distance(path: str | Path) -> PerceptualDistance:
    """Load a network to compare images with.

    Args:
        path (`str` or `Path`): Folder or Hub name of a vision model, or of a model with a `vision_model` in it, such
            as a CLIP. Mean and deviation of its pixels stand in `preprocessor_config.json`; without that, it takes
            pixel values in [-1, 1].

    Raises:
        ConfigError: If it cannot be loaded, or has no layers to compare.
    """
    try:
        folder = safetensors_folder(path)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
        file = cached_file(folder, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{_KEY} = {str(path)!r}: cannot be loaded ({' '.join(str(error).split())})") from error
    preprocessing: dict[str, Any] = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    statistics = [tuple(preprocessing.get(key, (0.5, 0.5, 0.5))) for key in ("image_mean", "image_std")]
    distance = PerceptualDistance(getattr(model, "vision_model", model), *statistics)
    try:
        has_layers = bool(distance.features(torch.zeros(1, 3, 32, 32)))
    except (TypeError, AttributeError, RuntimeError) as error:
        allowed = "a vision model of transformers that takes pixel_values and returns hidden_states"
        raise ConfigError(f"{_KEY} = {str(path)!r}: must be {allowed} ({' '.join(str(error).split())})") from error
    if not has_layers:
        raise ConfigError(f"{_KEY} = {str(path)!r}: it has no layers to compare")
    return distance
