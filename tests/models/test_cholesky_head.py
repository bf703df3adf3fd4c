"""The full covariance of an autoencoder's posterior (report eq. 10)."""

from __future__ import annotations

import pytest
import torch

from sd_pipeline import SDAutoencoderKL
from sd_pipeline.models.cholesky_head import CholeskyHead
from tests.components import tiny_vae


def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_every_cholesky_factor_can_be_made():
    """L = diag(sigma) (I + U), also where L comes from a covariance that has nothing to do with the layer."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, 6, 6, dtype=torch.float64, generator=generator)
    factor = torch.linalg.cholesky(root @ root.transpose(1, 2) + 0.1 * torch.eye(6, dtype=torch.float64))
    sigma = factor.diagonal(dim1=1, dim2=2)
    rows, columns = torch.tril_indices(6, 6, offset=-1)
    below = (factor / sigma.unsqueeze(2))[:, rows, columns]
    head = CholeskyHead(15, 6).double()
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(15))
    torch.testing.assert_close(head(below, 2 * sigma.log()), factor)


@torch.no_grad()
def test_it_begins_as_the_diagonal_posterior():
    full, diagonal = tiny_vae(posterior="cholesky"), tiny_vae()
    diagonal.load_state_dict(full.state_dict(), strict=False)
    posterior, expected = (vae.encode(images()).latent_dist for vae in (full, diagonal))
    torch.testing.assert_close(posterior.std, expected.std)
    torch.testing.assert_close(posterior.kl(), expected.kl())
    noise = torch.randn(expected.mean.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(posterior.reparameterise(noise), expected.reparameterise(noise))


def test_it_learns_correlations_and_survives_a_round_trip(tmp_path):
    """Correlations of 0.9 bring the divergence below what any diagonal posterior can reach."""
    vae = tiny_vae(posterior="cholesky", latent_channels=1)
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    # KL(q || N(0, C)) up to a constant, C with correlations of 0.9.
    precision = torch.linalg.inv(0.9 * torch.ones(64, 64) + 0.1 * torch.eye(64))
    for _ in range(60):
        posterior = vae.encode(images()).latent_dist
        second_moments = (
            posterior.covariance + posterior.mean.flatten(1)[:, :, None] * posterior.mean.flatten(1)[:, None]
        )
        loss = (0.5 * (precision * second_moments).sum((1, 2)) - 0.5 * posterior.logvar.flatten(1).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    best_diagonal = 32 + 0.5 * 64 * float(precision[0, 0].log())
    assert loss < best_diagonal - 2  # The least there is lies 2.7 below.
    vae.save_pretrained(tmp_path)
    again = SDAutoencoderKL.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again.encode(images()).latent_dist.factor, vae.encode(images()).latent_dist.factor)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="latents of at most 512 elements, got 1024"):
        tiny_vae(posterior="cholesky", latent_channels=16)
    with pytest.raises(ValueError, match="images of 32x32 pixels, got 32x48"):
        tiny_vae(posterior="cholesky").encode(torch.zeros(1, 3, 32, 48))
