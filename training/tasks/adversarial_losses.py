"""The losses of an autoencoder and its discriminator, and the weight that balances them, as pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F

MAX_ADAPTIVE_WEIGHT = 1e4
_DELTA = 1e-4


def discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor, kind: str) -> torch.Tensor:
    """Loss of the discriminator.

    hinge:    1/2 mean(max(0, 1 - D(x))) + 1/2 mean(max(0, 1 + D(x')))      (Lim and Ye 2017)
    vanilla:  -1/2 mean(ln sigmoid(D(x))) - 1/2 mean(ln(1 - sigmoid(D(x'))))    (Goodfellow et al. 2014)

    Args:
        real_logits (`torch.Tensor` of shape `(batch_size, patches)`): D(x), of images.
        fake_logits (`torch.Tensor`, same shape): D(x'), of reconstructions.
        kind (`str`): `"hinge"` or `"vanilla"`.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32.
    """
    function = F.softplus if kind == "vanilla" else _hinge
    of_real, of_fake = function(-real_logits.float()), function(fake_logits.float())
    return (of_real.mean(1) + of_fake.mean(1)) / 2


def _hinge(logits: torch.Tensor) -> torch.Tensor:
    return F.relu(1 + logits)


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Adversarial loss of the autoencoder: -mean(D(x')) (Lim and Ye 2017; Esser et al. 2021).

    Args:
        fake_logits (`torch.Tensor` of shape `(batch_size, ...)`): D(x').

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32.
    """
    return -fake_logits.float().flatten(1).mean(1)


def adaptive_weight(reconstruction: torch.Tensor, adversarial: torch.Tensor, last_layer: torch.Tensor) -> torch.Tensor:
    """Weight of the adversarial loss (Esser et al. 2021, eq. 7).

    lambda = |grad_L reconstruction| / (|grad_L adversarial| + 1e-4), L the weights of the decoder's last layer.

    The gradients are those of the whole batch of all processes, so that all have the same weight, and the same as one
    process with the whole batch has. Of an accumulated batch each micro-batch has a weight of its own.

    Args:
        reconstruction (`torch.Tensor`, a scalar): Mean over the micro-batch of this process.
        adversarial (`torch.Tensor`, a scalar): Likewise.
        last_layer (`torch.Tensor`): L, a parameter. Its `grad` is left alone.

    Returns:
        `torch.Tensor`, a scalar in [0, 1e4], without gradient.
    """
    losses = (reconstruction, adversarial)
    gradients = torch.stack([torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float() for loss in losses])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(gradients)
        gradients /= torch.distributed.get_world_size()
    of_reconstruction, of_adversarial = gradients.flatten(1).norm(dim=1)
    return (of_reconstruction / (of_adversarial + _DELTA)).clamp(0, MAX_ADAPTIVE_WEIGHT).detach()
