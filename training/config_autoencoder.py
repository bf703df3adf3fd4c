"""The block of the second stage: the autoencoder. Imports nothing else of the project than how a stage is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from training.config_stages import INFINITY, StageConfig, require


def _default_vae() -> dict[str, Any]:
    return {
        "block_out_channels": [32, 64, 128],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "layers_per_block": 1,
        "latent_channels": 4,
    }


@dataclass(frozen=True)
class PerceptualConfig:
    """A distance between an image and its reconstruction in the features of a network (Zhang et al. 2018).

    Args:
        scale: Factor of the distance, beside nats a pixel value; 0 leaves it out.
        model_name_or_path: Vision model of transformers: a folder or a repository on the Hub; null takes the image
            tower of the run's own contrastive text encoder.
    """

    scale: float = 0.0
    model_name_or_path: str | None = None

    def __post_init__(self) -> None:
        require(0 <= self.scale < INFINITY, "autoencoder.perceptual.scale", self.scale, "at least 0 and finite")
        path = self.model_name_or_path
        allowed = "a vision model, or null"
        require(path is None or bool(path.strip()), "autoencoder.perceptual.model_name_or_path", path, allowed)


@dataclass(frozen=True)
class AdversarialConfig:
    """A discriminator of patches (Isola et al. 2017), trained beside the autoencoder (Esser et al. 2021).

    Args:
        scale: Factor of the adversarial loss; 0 trains no discriminator.
        start_step: Updates of the autoencoder before the discriminator takes part and begins to learn.
        loss: Of the discriminator: `hinge` or `vanilla` (binary cross-entropy).
        adaptive_weight: Multiply the adversarial loss by the ratio of the gradients of reconstruction and adversarial
            loss in the decoder's last layer.
        learning_rate: Peak learning rate of the discriminator; null takes the autoencoder's.
        base_channels: Channels after its first convolution.
        num_layers: Convolutions that halve the picture.
    """

    scale: float = 0.0
    start_step: int = 1000
    loss: Literal["hinge", "vanilla"] = "hinge"
    adaptive_weight: bool = True
    learning_rate: float | None = None
    base_channels: int = 64
    num_layers: int = 3

    def __post_init__(self) -> None:
        key = "autoencoder.adversarial"
        require(0 <= self.scale < INFINITY, f"{key}.scale", self.scale, "at least 0 and finite")
        require(self.start_step >= 0, f"{key}.start_step", self.start_step, "at least 0")
        rate = self.learning_rate
        require(rate is None or 0 < rate < INFINITY, f"{key}.learning_rate", rate, "above 0 and finite, or null")
        is_even = self.base_channels >= 8 and self.base_channels % 8 == 0
        require(is_even, f"{key}.base_channels", self.base_channels, "a multiple of 8")
        require(self.num_layers >= 1, f"{key}.num_layers", self.num_layers, "at least 1")


@dataclass(frozen=True)
class AutoencoderConfig(StageConfig):
    """The KL autoencoder, trained on the evidence lower bound, and on what else is asked for.

    Args:
        vae: Keyword arguments of `SDAutoencoderKL`.
        likelihood: `gaussian` (squared error, L2; report eq. 8-9), `laplace` (absolute error, L1) or `bernoulli`
            (binary cross-entropy).
        likelihood_std: Standard deviation of the Gaussian or Laplacian likelihood, in units of pixel values in
            [-1, 1].
        learn_likelihood_std: Learn that of the Gaussian likelihood with the networks, from `likelihood_std` on, so
            that reconstruction and KL divergence are in balance by themselves.
        kl_scale: Factor of the KL divergence; 1 is the bound itself.
        perceptual: A distance in the features of a pretrained network.
        adversarial: A discriminator of patches.
    """

    vae: dict[str, Any] = field(default_factory=_default_vae)
    likelihood: Literal["gaussian", "laplace", "bernoulli"] = "gaussian"
    likelihood_std: float = 0.1
    learn_likelihood_std: bool = False
    kl_scale: float = 1.0
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)

    @property
    def stage(self) -> str:
        """The name of the block in the configuration."""
        return "autoencoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        std, scale = self.likelihood_std, self.kl_scale
        starts = self.adversarial.start_step
        allowed = f"below autoencoder.max_train_steps, {self.max_train_steps}, or the discriminator never takes part"
        is_used = self.adversarial.scale == 0 or starts < self.max_train_steps
        require(is_used, "autoencoder.adversarial.start_step", starts, allowed)
        require(0 < std < INFINITY, "autoencoder.likelihood_std", std, "above 0 and finite")
        can_learn = self.likelihood == "gaussian" or not self.learn_likelihood_std
        allowed = "false with another autoencoder.likelihood than gaussian"
        require(can_learn, "autoencoder.learn_likelihood_std", self.learn_likelihood_std, allowed)
        require(0 <= scale < INFINITY, "autoencoder.kl_scale", scale, "at least 0 and finite")
