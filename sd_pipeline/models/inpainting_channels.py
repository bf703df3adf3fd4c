"""What a U-Net that was trained to inpaint sees beside the noisy latents: the mask and the masked image's latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from sd_pipeline.models.unet_2d_condition import SDUNet2DConditionModel


def latent_mask(mask: torch.Tensor, factor: int) -> torch.Tensor:
    """Reduce a mask to latents: a latent is repainted where any of its pixels is, so that no pixel is missed.

    Args:
        mask (`torch.Tensor` of shape `(batch_size, 1, height, width)`): 1 in the hole, else 0; floating point.
        factor (`int`): Pixels that a latent covers on each axis; divides height and width.

    Returns:
        `torch.Tensor` of shape `(batch_size, 1, height / factor, width / factor)`, of the same dtype.
    """
    return F.max_pool2d(mask, factor)


@torch.no_grad()
def grow_for_inpainting(unet: UNet2DConditionModel) -> SDUNet2DConditionModel:
    """Copy a text-to-image U-Net into one that takes 2 n + 1 channels: n latents, the mask, n masked latents.

    The weights of the new channels are zero, so that it predicts the same until it is trained, whatever the mask.

    Args:
        unet (`UNet2DConditionModel`): Of n input and n output channels.

    Returns:
        [`SDUNet2DConditionModel`]: On the same device, of the same dtype.

    Raises:
        ValueError: If its inputs are not the channels that it predicts.
    """
    channels = unet.config["in_channels"]
    if channels != unet.config["out_channels"]:
        raise ValueError(
            f"a U-Net of {channels} input and {unet.config['out_channels']} output channels cannot be made to "
            "inpaint; allowed: as many inputs as outputs"
        )
    grown = SDUNet2DConditionModel.from_config({**unet.config, "in_channels": 2 * channels + 1})
    weights = unet.state_dict()
    weight = weights["conv_in.weight"]
    zeros = weight.new_zeros(weight.shape[0], channels + 1, *weight.shape[2:])
    grown.load_state_dict({**weights, "conv_in.weight": torch.cat([weight, zeros], dim=1)})
    return grown.to(device=unet.device, dtype=unet.dtype).train(unet.training)
