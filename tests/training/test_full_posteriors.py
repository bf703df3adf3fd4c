"""A run whose autoencoder has a posterior of full covariance and learns the deviation of its likelihood."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DiffusionPipeline

from sd_pipeline import SDPipeline
from sd_pipeline.latents import latent_prior
from sd_pipeline.models.gaussian import CholeskyGaussian
from sd_pipeline.stock_config import facts_of
from tests.training.runs import tiny_config, train, write_config


@pytest.mark.slow
def test_a_run_with_a_full_covariance(tmp_path):
    config = tiny_config(tmp_path / "run")
    config["autoencoder"] |= {
        "learn_likelihood_std": True,
        "vae": {**config["autoencoder"]["vae"], "posterior": "cholesky"},
    }
    config["diffusion"]["cache_latents"] = False
    train(["--config", str(write_config(tmp_path / "config.yaml", config))])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (learned,) = [row["validation_likelihood_std"] for row in map(json.loads, lines) if "validation_kl" in row]
    assert learned != pytest.approx(0.1, rel=1e-4)

    folder = tmp_path / "run" / "pipeline"
    vae = SDPipeline.from_pretrained(folder).vae
    assert facts_of(vae.config)["likelihood_std"] == pytest.approx(learned, rel=1e-5)
    side = vae.config["sample_size"]
    with torch.no_grad():
        posterior = vae.encode(torch.zeros(1, 3, side, side)).latent_dist
    assert isinstance(posterior, CholeskyGaussian)
    assert float(posterior.kl(latent_prior(vae.config, posterior.mean))) > 0

    index = json.loads((folder / "model_index.json").read_text())
    assert index["_sd_pipeline"]["components"] == {"vae": ["sd_pipeline", "SDAutoencoderKL"]}
    assert "posterior" in (folder / "README.md").read_text()
    # Diffusers can decode with it.
    stock = DiffusionPipeline.from_pretrained(folder).vae
    latents = torch.randn(1, *posterior.mean.shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(stock.decode(latents).sample, vae.decode(latents).sample)
