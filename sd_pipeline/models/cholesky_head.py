"""The covariances of a posterior between the elements of its latents: a factor of the Cholesky kind for each image."""

from __future__ import annotations

import torch
from torch import nn

MAX_ELEMENTS = 512
"""Of the latents of an image. The layer has about as many weights as the cube of this, 134 million at most."""


class CholeskyHead(nn.Module):
    """From features of the encoder to L_phi(x) of report eq. 10, lower triangular with a positive diagonal.

    L = diag(sigma) (I + U). sigma is what the diagonal posterior has for a standard deviation; U, strictly lower
    triangular, is one linear layer away from all features of the image. Every lower triangular matrix with a positive
    diagonal is such a product. U begins at 0, so training begins with the diagonal posterior.

    Args:
        num_features (`int`): Values of an image that the encoder hands over.
        num_elements (`int`): Elements of an image's latents, at most 512.

    Raises:
        ValueError: If there are more elements.
    """

    def __init__(self, num_features: int, num_elements: int) -> None:
        super().__init__()
        if num_elements > MAX_ELEMENTS:
            raise ValueError(
                f"posterior 'cholesky' is for latents of at most {MAX_ELEMENTS} elements, got {num_elements}"
            )
        self.num_elements = num_elements
        self.linear = nn.Linear(num_features, num_elements * (num_elements - 1) // 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        """Build the factor.

        Args:
            features (`torch.Tensor` of shape `(batch_size, ...)`): The encoder's, `num_features` of an image.
            logvar (`torch.Tensor` of shape `(batch_size, ...)`): ln sigma^2, `num_elements` of an image.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_elements, num_elements)`: L.
        """
        below = self.linear(features.flatten(1))
        rows, columns = torch.tril_indices(self.num_elements, self.num_elements, offset=-1, device=below.device)
        unit = torch.eye(self.num_elements, dtype=below.dtype, device=below.device).repeat(len(below), 1, 1)
        unit[:, rows, columns] = below
        return (0.5 * logvar.flatten(1)).exp().unsqueeze(2) * unit
