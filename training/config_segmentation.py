"""The block of the segmentation stage. Imports nothing else of the project than how a stage is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from training.config_stages import INFINITY, StageConfig, require


@dataclass(frozen=True)
class SegmentationConfig(StageConfig):
    """The U-Net of 2015, trained on annotated images.

    Args:
        unet: Keyword arguments of `SegmentationUNet`; none are those of the paper.
        class_names: A name for each class, published with the model; null names none.
        border_weight: w_0, the additional weight of a border of no width between two cells; 0 weighs none.
        border_sigma: How fast it falls with the distance of the cells, pixels.
        class_balance: Weight classes with their inverse frequency in the training data.
        elastic_std: Standard deviation of random displacements on a 3x3 grid over a tile, pixels; 0 deforms none.
        max_rotation: Tiles are turned by a random angle of at most this, degrees.
        grey_value_std: Of random changes of contrast (its logarithm) and brightness, in standard deviations of an
            image.
    """

    unet: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] | None = None
    border_weight: float = 10.0
    border_sigma: float = 5.0
    class_balance: bool = True
    elastic_std: float = 10.0
    max_rotation: float = 180.0
    grey_value_std: float = 0.1

    @property
    def stage(self) -> str:
        """The name of the block in the configuration."""
        return "segmentation"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("border_weight", "elastic_std", "grey_value_std"):
            value = getattr(self, name)
            require(0 <= value < INFINITY, f"segmentation.{name}", value, "at least 0 and finite")
        sigma, angle = self.border_sigma, self.max_rotation
        require(0 < sigma < INFINITY, "segmentation.border_sigma", sigma, "above 0 and finite")
        require(0 <= angle <= 180, "segmentation.max_rotation", angle, "from 0 to 180")
