"""The safety checker that some repositories bring along, applied as diffusers does."""

from __future__ import annotations

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers.image_processing_utils import BaseImageProcessor


def check_safety(
    images: torch.Tensor, safety_checker: StableDiffusionSafetyChecker, feature_extractor: BaseImageProcessor
) -> tuple[torch.Tensor, list[bool]]:
    """Blacken the images that the checker finds unsafe.

    Args:
        images (`torch.Tensor` of shape `(batch_size, 3, height, width)`): In [0, 1], floating point.
        safety_checker (`StableDiffusionSafetyChecker`): The checker.
        feature_extractor ([`~transformers.CLIPImageProcessor`]): Prepares its input.

    Returns:
        `torch.Tensor` of the same shape and dtype, and `list[bool]`: which images were found unsafe.
    """
    pictures = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(images))
    features = feature_extractor(pictures, return_tensors="pt").pixel_values
    placed = features.to(safety_checker.device, safety_checker.dtype)
    return safety_checker(clip_input=placed, images=images.clone())
