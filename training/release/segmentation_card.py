"""What the card of a segmentation says of the network, its training and its measurements."""

from __future__ import annotations

from sd_pipeline.models.segmentation_unet import SegmentationUNet
from sd_pipeline.publishing.model_card import markdown_table
from training.config import SegmentationConfig


def network_fields(unet: SegmentationUNet, settings: SegmentationConfig, label_type: str) -> dict[str, str]:
    """Describe the network and how it was trained.

    Args:
        unet (`SegmentationUNet`): The network.
        settings (`SegmentationConfig`): Its block of the configuration.
        label_type (`str`): `data.label_type`.
    """
    config = unet.config
    channels, num_classes = config["in_channels"], config["num_classes"]
    names = settings.class_names or [f"class {number}" for number in range(num_classes)]
    connected = "Objects are what is connected, so those that touch are told apart where it leaves background between."
    return {
        "parameters": f"{sum(parameter.numel() for parameter in unet.parameters()):,}",
        "classes": " and ".join([", ".join(names[:-1]), names[-1]]) if num_classes > 1 else names[0],
        "channels": "one channel" if channels == 1 else f"{channels} channels",
        "connected": connected if label_type == "instances" else "",
        "recipe": recipe_table(settings, config["is_padded"]),
    }


def recipe_table(settings: SegmentationConfig, is_padded: bool) -> str:
    """Tell in a table what of the paper's recipe was used.

    Args:
        settings (`SegmentationConfig`): Its block of the configuration.
        is_padded (`bool`): Whether the convolutions are padded.
    """
    border = f"w_0 = {settings.border_weight:g}, sigma = {settings.border_sigma:g} pixels"
    elastic = f"standard deviation {settings.elastic_std:g} pixels on a 3x3 grid"
    rows = [
        ["convolutions", "padded" if is_padded else "unpadded, as in the paper"],
        ["weights of borders between objects", border if settings.border_weight else "none"],
        ["weights of classes", "inverse frequency" if settings.class_balance else "none"],
        ["elastic deformation", elastic if settings.elastic_std else "none"],
        ["rotation", f"up to {settings.max_rotation:g} degrees"],
        ["changes of grey values", f"standard deviation {settings.grey_value_std:g}"],
        ["optimizer", f"{settings.optimizer}, learning rate {settings.learning_rate:g}"],
    ]
    return markdown_table(["part of the recipe", "here"], rows)
