"""The posterior q_phi(z|x) of the autoencoder: a Gaussian over latents, with diagonal or with full covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor

LOGVAR_RANGE = (-30.0, 20.0)
"""Bounds of the log-variance, those of diffusers: the standard deviation stays in [3.1e-7, 2.2e4]."""

_PER_SAMPLE = (1, 2, 3)


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    # Sums over all elements of a latent lose their digits in half precision.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class _Posterior:
    """What a Gaussian over latents offers whatever its covariance."""

    mean: torch.Tensor

    def sample(self, generator: torch.Generator | list[torch.Generator] | None = None) -> torch.Tensor:
        """Draw z ~ q_phi(z|x), differentiable in the parameters (report, eq. 11).

        Args:
            generator (`torch.Generator` or list of them, one a sample, *optional*): Where the noise comes from.

        Returns:
            `torch.Tensor` of the shape and dtype of `mean`: z.
        """
        noise = randn_tensor(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.reparameterise(noise)

    def mode(self) -> torch.Tensor:
        """Return the most probable latents.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_channels, height, width)`: the mean.
        """
        return self.mean

    def reparameterise(self, noise: torch.Tensor) -> torch.Tensor:
        """Give z for noise drawn elsewhere."""
        raise NotImplementedError


class DiagonalGaussian(_Posterior):
    """A Gaussian N(mean, diag(exp(logvar))) for each sample of a batch.

    The log-variance is a parameter, not the variance, so that any real output of a network is a valid one (report,
    section 2.5). One log-variance shared by all elements of a sample gives the isotropic N(mean, sigma^2 I) of report
    eq. 9. Has every attribute and method that code written for diffusers' posterior uses.

    Args:
        mean (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): E_phi(x). Floating point.
        logvar (`torch.Tensor`, same shape): ln sigma_phi(x)^2; clamped to [-30, 20].

    Example:
        ```python
        >>> import torch
        >>> from sd_pipeline.models.gaussian import DiagonalGaussian
        >>> standard_normal = DiagonalGaussian(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8))
        >>> standard_normal.kl()
        tensor([0., 0.])

        ```
    """

    def __init__(self, mean: torch.Tensor, logvar: torch.Tensor) -> None:
        if mean.shape != logvar.shape:
            raise ValueError(f"mean and logvar must have one shape, got {tuple(mean.shape)} and {tuple(logvar.shape)}")
        self.mean = mean
        self.logvar = torch.clamp(logvar, *LOGVAR_RANGE)
        self.std = torch.exp(0.5 * self.logvar)
        self.var = torch.exp(self.logvar)

    @property
    def parameters(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(batch_size, 2 * num_channels, height, width)`: mean, then log-variance."""
        return torch.cat([self.mean, self.logvar], dim=1)

    def reparameterise(self, noise: torch.Tensor) -> torch.Tensor:
        """Give z = mean + std * epsilon for noise drawn elsewhere (report, eq. 11).

        Args:
            noise (`torch.Tensor` of the shape of `mean`): epsilon, standard normal.

        Returns:
            `torch.Tensor` of the shape of `mean`: z.
        """
        return self.mean + self.std * noise

    def kl(self, other: DiagonalGaussian | None = None) -> torch.Tensor:
        """Kullback-Leibler divergence to another Gaussian, by default the prior N(0, I), in closed form.

        KL(N(mu, diag(sigma^2)) || N(0, I)) = 1/2 sum (sigma^2 + mu^2 - 1 - ln sigma^2)    (Kingma and Welling 2013)

        With one sigma for all N elements it is 1/2 (N sigma^2 + |mu|^2 - N - 2 N ln sigma) (report eq. 9, corrected:
        the brackets closed and the constant -N written out).

        Args:
            other (`DiagonalGaussian`, *optional*): The second argument of the divergence, of the same shape.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`, float32 or wider, in [0, inf): nats a sample.
        """
        mean, logvar = _at_least_float32(self.mean), _at_least_float32(self.logvar)
        if other is None:
            terms = logvar.exp() + mean**2 - 1.0 - logvar
        else:
            log_ratio = logvar - other.logvar
            terms = log_ratio.exp() + (mean - other.mean) ** 2 / other.logvar.to(logvar.dtype).exp() - 1.0 - log_ratio
        return 0.5 * terms.sum(dim=_PER_SAMPLE)

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """Log-density of latents.

        ln q_phi(z|x) = -1/2 |epsilon|^2 - ln |det L| - n/2 ln(2 pi), epsilon = L^-1 (z - mu), L = diag(sigma)
        (report, end of section 2.4).

        Args:
            z (`torch.Tensor` of the shape of `mean`): Latents. Floating point.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`, float32 or wider: nats a sample.
        """
        return -self.nll(z)

    def nll(self, sample: torch.Tensor, dims: Sequence[int] = _PER_SAMPLE) -> torch.Tensor:
        """Negative log-density of latents, summed over some dimensions.

        Args:
            sample (`torch.Tensor` of the shape of `mean`): Latents. Floating point.
            dims (sequence of `int`, *optional*, defaults to `(1, 2, 3)`): The dimensions to sum over.

        Returns:
            `torch.Tensor` of the remaining shape, `(batch_size,)` by default, float32 or wider: nats.
        """
        mean, logvar = _at_least_float32(self.mean), _at_least_float32(self.logvar)
        squared_epsilon = (sample - mean) ** 2 * torch.exp(-logvar)
        return 0.5 * (math.log(2.0 * math.pi) + logvar + squared_epsilon).sum(dim=tuple(dims))


class CholeskyGaussian(_Posterior):
    """A Gaussian N(mean, L L^T) of full covariance for each sample of a batch (report, section 2.4).

    For latents of few elements: L has as many rows and columns as a sample has elements.

    Args:
        mean (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): mu_phi(x). Floating point.
        factor (`torch.Tensor` of shape `(batch_size, num_elements, num_elements)`):
            L_phi(x) of report eq. 10, lower triangular with a positive diagonal, for the elements of a sample in the
            order of memory: channel, row, column.

    Attributes:
        std (`torch.Tensor` of the shape of `mean`): Standard deviation of each element alone.
        logvar (`torch.Tensor` of the shape of `mean`): ln L_ii^2, the log-variance of each element once those before
            it are known.

    Raises:
        ValueError: If the shapes do not belong together, or `factor` is no such matrix.

    Example:
        ```python
        >>> import torch
        >>> from sd_pipeline.models.gaussian import CholeskyGaussian
        >>> standard_normal = CholeskyGaussian(torch.zeros(2, 1, 2, 2), torch.eye(4).expand(2, 4, 4))
        >>> standard_normal.kl()
        tensor([0., 0.])

        ```
    """

    def __init__(self, mean: torch.Tensor, factor: torch.Tensor) -> None:
        num_elements = mean[0].numel()
        expected = (len(mean), num_elements, num_elements)
        if factor.shape != expected:
            raise ValueError(f"factor must have shape {expected} for this mean, got {tuple(factor.shape)}")
        diagonal = factor.diagonal(dim1=1, dim2=2)
        # On the meta device, where sizes are tried out, there are no values to check.
        if not factor.is_meta and not (bool((diagonal > 0).all()) and bool((factor.triu(1) == 0).all())):
            raise ValueError("factor must be lower triangular with a positive diagonal")
        self.mean = mean
        self.factor = factor
        self.logvar = 2 * diagonal.log().view_as(mean)
        self.var = factor.square().sum(2).view_as(mean)
        self.std = self.var.sqrt()

    @property
    def covariance(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(batch_size, num_elements, num_elements)`: Sigma = L L^T (report eq. 10)."""
        return self.factor @ self.factor.transpose(1, 2)

    def reparameterise(self, noise: torch.Tensor) -> torch.Tensor:
        """Give z = mean + L epsilon for noise drawn elsewhere (report, eq. 11).

        Args:
            noise (`torch.Tensor` of the shape of `mean`): epsilon, standard normal.

        Returns:
            `torch.Tensor` of the shape of `mean`: z.
        """
        factor = self.factor.to(noise.dtype)
        return self.mean + (factor @ noise.flatten(1).unsqueeze(2)).view_as(self.mean)

    def kl(self, other: DiagonalGaussian | None = None) -> torch.Tensor:
        """Kullback-Leibler divergence to a diagonal Gaussian, by default the prior N(0, I), in closed form.

        KL(N(mu, L L^T) || N(m, S S)) = 1/2 (|S^-1 L|_F^2 + |S^-1 (mu - m)|^2 - n) - ln |det L| + ln |det S|

        Args:
            other (`DiagonalGaussian`, *optional*): N(m, S S), S diagonal, of the same shape.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`, float32 or wider, in [0, inf): nats a sample.
        """
        mean, factor = _at_least_float32(self.mean).flatten(1), _at_least_float32(self.factor)
        log_determinant = self._log_determinant()
        if other is not None:
            std = other.std.to(mean.dtype).flatten(1)
            mean, factor = (mean - other.mean.to(mean.dtype).flatten(1)) / std, factor / std.unsqueeze(2)
            log_determinant = log_determinant - std.log().sum(1)
        terms = factor.square().sum((1, 2)) + mean.square().sum(1) - mean.shape[1]
        return 0.5 * terms - log_determinant

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """Log-density of latents.

        ln q_phi(z|x) = -1/2 |epsilon|^2 - ln |det L| - n/2 ln(2 pi), epsilon = L^-1 (z - mu)
        (report, end of section 2.4).

        Args:
            z (`torch.Tensor` of the shape of `mean`): Latents. Floating point.

        Returns:
            `torch.Tensor` of shape `(batch_size,)`, float32 or wider: nats a sample.
        """
        centred = _at_least_float32(z - self.mean).flatten(1).unsqueeze(2)
        epsilon = torch.linalg.solve_triangular(_at_least_float32(self.factor), centred, upper=False)
        constant = 0.5 * math.log(2.0 * math.pi) * centred.shape[1]
        return -0.5 * epsilon.square().sum((1, 2)) - self._log_determinant() - constant

    def _log_determinant(self) -> torch.Tensor:
        return _at_least_float32(self.factor).diagonal(dim1=1, dim2=2).log().sum(1)
