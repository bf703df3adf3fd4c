"""The discriminator of patches that an autoencoder may learn against (PatchGAN, Isola et al. 2017)."""

from __future__ import annotations

import torch
from torch import nn

from training.tasks.adversarial_losses import discriminator_loss

_GROUPS = 8
_MOST_TIMES_WIDER = 8


class PatchDiscriminator(nn.Module):
    """Says of every patch of an image whether it is real.

    Groups of channels are normalised, not batches: what it says of an image does not depend on the others, nor on how
    a global batch is split.

    Args:
        in_channels (`int`, defaults to 3): Channels of an image.
        base_channels (`int`, defaults to 64): Channels after the first convolution; they double with each further one,
            up to eight times as many.
        num_layers (`int`, defaults to 3): Convolutions that halve the image.
        loss (`str`, defaults to `"hinge"`): `"hinge"` or `"vanilla"`.
    """

    def __init__(
        self, in_channels: int = 3, base_channels: int = 64, num_layers: int = 3, loss: str = "hinge"
    ) -> None:
        super().__init__()
        self.loss = loss
        layers: list[nn.Module] = [nn.Conv2d(in_channels, base_channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = base_channels
        for number in range(1, num_layers + 1):
            wider = base_channels * min(2**number, _MOST_TIMES_WIDER)
            stride = 2 if number < num_layers else 1
            convolution = nn.Conv2d(channels, wider, 4, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.GroupNorm(_GROUPS, wider), nn.LeakyReLU(0.2)]
            channels = wider
        # Without a bias: under the hinge its gradient is a difference of counts, often rounding alone, of which Adam
        # makes whole steps.
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, stride=1, padding=1, bias=False))

    def logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Judge every patch.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`): In [-1, 1].

        Returns:
            `torch.Tensor` of shape `(batch_size, 1, patches down, patches across)`: above 0 is real.
        """
        judged: torch.Tensor = self.layers(pixel_values)
        return judged

    def forward(self, real: torch.Tensor, fake: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compare images with reconstructions, which bring no gradient along.

        Args:
            real (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Images.
            fake (`torch.Tensor`, same shape): Reconstructions.

        Returns:
            `dict` of tensors of shape `(batch_size,)`: `"loss"`, and the mean logits `"real"` and `"fake"`.
        """
        of_real, of_fake = self.logits(real).float().flatten(1), self.logits(fake).float().flatten(1)
        loss = discriminator_loss(of_real, of_fake, self.loss)
        return {"loss": loss, "real": of_real.mean(1), "fake": of_fake.mean(1)}
