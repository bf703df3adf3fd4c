from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from sd_pipeline import SDAutoencoderKL
from sd_pipeline.latents import fold_latent_statistics, latent_prior, scale_latents, unscale_latents

TINY = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}
MEAN, STD = torch.tensor([0.3, -2.0, 0.0, 5.0]), torch.tensor([0.1, 3.0, 1.0, 12.0])


def latents(num: int = 2) -> torch.Tensor:
    return torch.randn(num, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def images(num: int = 8) -> torch.Tensor:
    return torch.rand(num, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(params=[SDAutoencoderKL, AutoencoderKL])
def vae(request):
    """An autoencoder whose raw latents are far from standard."""
    torch.manual_seed(0)
    model = request.param(**TINY).eval()
    with torch.no_grad():
        model.quant_conv.weight.mul_(4.0)
        model.quant_conv.bias.copy_(torch.tensor([1.0, -3.0, 0.5, 8.0, -4.0, -2.0, 0.0, 1.0]))
    return model


def sampled_latents(vae, pixel_values: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vae.encode(pixel_values).latent_dist.sample(torch.Generator().manual_seed(2))


def channel_statistics(raw_latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    channels = raw_latents.double().transpose(0, 1).flatten(1)
    return channels.mean(1), channels.std(1, correction=0)


def test_scaling_is_the_scalar_factor():
    config = SDAutoencoderKL(**TINY).config
    assert torch.equal(scale_latents(latents(), config), latents() * 0.18215)
    assert torch.equal(unscale_latents(latents(), config), latents() / 0.18215)


def test_scaling_shifts_first():
    config = SDAutoencoderKL(**TINY, scaling_factor=1.5, shift_factor=0.2).config
    torch.testing.assert_close(scale_latents(latents(), config), (latents() - 0.2) * 1.5)


def test_scaling_by_channel_statistics():
    config = SDAutoencoderKL(
        **TINY, scaling_factor=0.5, latents_mean=tuple(MEAN.tolist()), latents_std=tuple(STD.tolist())
    ).config
    mean, std = MEAN.view(1, 4, 1, 1), STD.view(1, 4, 1, 1)
    torch.testing.assert_close(scale_latents(latents(), config), (latents() - mean) / std * 0.5)


@pytest.mark.parametrize(
    "scale",
    [
        {},
        {"scaling_factor": 1.0},
        {"scaling_factor": 1.5305, "shift_factor": 0.0609},
        {"latents_mean": tuple(MEAN.tolist()), "latents_std": tuple(STD.tolist())},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unscaling_undoes_scaling(scale, dtype):
    config = SDAutoencoderKL(**TINY, **scale).config
    there_and_back = unscale_latents(scale_latents(latents().to(dtype), config), config)
    assert there_and_back.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(there_and_back, latents().to(dtype), rtol=tolerance, atol=tolerance)


def test_folded_latents_are_standard_and_images_unchanged(vae):
    raw_latents = sampled_latents(vae, images())
    mean, std = channel_statistics(raw_latents)
    assert (std - 1).abs().max() > 0.5
    with torch.no_grad():
        reconstruction = vae(images()).sample
        decoded = vae.decode(raw_latents).sample

    fold_latent_statistics(vae, mean, std)
    folded = sampled_latents(vae, images())
    expected = (raw_latents - mean.view(1, 4, 1, 1)) / std.view(1, 4, 1, 1)
    torch.testing.assert_close(folded.double(), expected, rtol=0, atol=1e-5)
    folded_mean, folded_std = channel_statistics(folded)
    torch.testing.assert_close(folded_mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(folded_std, torch.ones_like(std), rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(vae.decode(folded).sample, decoded, rtol=0, atol=1e-4)
        torch.testing.assert_close(vae(images()).sample, reconstruction, rtol=0, atol=1e-4)
    assert torch.equal(scale_latents(folded, vae.config), folded)


def test_stock_diffusers_reads_the_folded_autoencoder(tmp_path):
    torch.manual_seed(0)
    ours = SDAutoencoderKL(**TINY, latents_mean=(1.0,) * 4, latents_std=(2.0,) * 4).eval()
    with torch.no_grad():
        reconstruction = ours(images()).sample
    fold_latent_statistics(ours, *channel_statistics(sampled_latents(ours, images())))
    ours.save_pretrained(tmp_path)
    stock = AutoencoderKL.from_pretrained(tmp_path)
    assert stock.config.scaling_factor == 1.0
    assert stock.config.latents_mean is None
    mean, std = channel_statistics(sampled_latents(stock, images()))
    assert mean.abs().max() < 1e-4
    assert (std - 1).abs().max() < 1e-4
    with torch.no_grad():
        torch.testing.assert_close(stock(images()).sample, reconstruction, rtol=0, atol=1e-4)


def test_the_folded_scaling_factor_survives_from_config(vae):
    """`from_config` resets keys that it believes to be at their default."""
    assert "scaling_factor" in vae.config["_use_default_values"]
    fold_latent_statistics(vae, MEAN, STD)
    assert type(vae).from_config(vae.config).config.scaling_factor == 1.0


def test_folded_posterior_is_the_old_one_in_new_coordinates(vae):
    """mu becomes (mu - m) / s, and ln sigma^2 becomes ln sigma^2 - 2 ln s."""
    with torch.no_grad():
        before = vae.encode(images()).latent_dist
        fold_latent_statistics(vae, MEAN, STD)
        after = vae.encode(images()).latent_dist
    mean, std = MEAN.view(1, 4, 1, 1), STD.view(1, 4, 1, 1)
    torch.testing.assert_close(after.mean, (before.mean - mean) / std, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.logvar, before.logvar - 2 * std.log(), rtol=1e-4, atol=1e-4)
    # What lies outside the fold: the clamp. Here no log-variance is near it, on either side.
    assert min(before.logvar.min(), after.logvar.min()) > -30
    assert max(before.logvar.max(), after.logvar.max()) < 20


@pytest.mark.parametrize("posterior", ["diagonal", "cholesky"])
def test_the_divergence_from_the_folded_prior_is_that_before(posterior, tmp_path):
    """KL does not depend on the coordinates, if both distributions are brought to the new ones; also folded twice."""
    torch.manual_seed(0)
    vae = SDAutoencoderKL(**TINY, sample_size=16, posterior=posterior).eval()
    if posterior == "cholesky":
        torch.nn.init.normal_(vae.cholesky_head.linear.weight, std=0.02)
    with torch.no_grad():
        before = vae.encode(images()).latent_dist.kl()
        assert latent_prior(vae.config, torch.zeros(8, 4, 8, 8)) is None
        fold_latent_statistics(vae, MEAN, STD)
        fold_latent_statistics(vae, STD, MEAN.abs() + 1)
        vae.save_pretrained(tmp_path)
        vae = SDAutoencoderKL.from_pretrained(tmp_path)
        after = vae.encode(images()).latent_dist
    torch.testing.assert_close(after.kl(latent_prior(vae.config, after.mean)).float(), before, rtol=1e-4, atol=1e-2)
    assert (after.kl() - before).abs().min() > 1, "N(0, I) is not the prior any more"


def test_stock_diffusers_carries_the_recorded_prior_along(vae, tmp_path):
    fold_latent_statistics(vae, MEAN, STD)
    vae.save_pretrained(tmp_path / "once")
    AutoencoderKL.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "again")
    again = SDAutoencoderKL.from_pretrained(tmp_path / "again")
    prior = latent_prior(again.config, latents())
    torch.testing.assert_close(prior.mean[0, :, 0, 0], (-MEAN / STD).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(prior.std[0, :, 0, 0], (1 / STD).double(), rtol=1e-6, atol=1e-6)


def test_isotropic_posterior_folds_with_one_std():
    torch.manual_seed(0)
    vae = SDAutoencoderKL(**TINY, posterior="isotropic").eval()
    with torch.no_grad():
        before = vae.encode(images()).latent_dist
        fold_latent_statistics(vae, MEAN, torch.full((4,), 2.5))
        after = vae.encode(images()).latent_dist
    torch.testing.assert_close(after.std, before.std / 2.5)
    torch.testing.assert_close(after.mean, (before.mean - MEAN.view(1, 4, 1, 1)) / 2.5)


@pytest.mark.parametrize(
    ("config", "mean", "std", "message"),
    [
        ({"use_quant_conv": False}, MEAN, STD, "use_quant_conv=True and use_post_quant_conv=True"),
        ({"use_post_quant_conv": False}, MEAN, STD, "use_quant_conv=True and use_post_quant_conv=True"),
        ({}, MEAN, torch.tensor([1.0, 0.0, 1.0, 1.0]), "std must be finite and above 0"),
        ({}, MEAN, torch.tensor([1.0, -1.0, 1.0, 1.0]), "std must be finite and above 0"),
        ({}, MEAN, torch.tensor([1.0, float("inf"), 1.0, 1.0]), "std must be finite and above 0"),
        ({}, torch.full((4,), float("nan")), STD, "mean must be finite"),
        ({}, MEAN, torch.ones(3), r"std must have shape \(4,\), got \(3,\)"),
        ({"posterior": "isotropic"}, MEAN, STD, "one std for all channels"),
    ],
)
def test_impossible_folds_are_refused_and_change_nothing(config, mean, std, message):
    vae = SDAutoencoderKL(**TINY, **config)
    state_dict = {key: value.clone() for key, value in vae.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        fold_latent_statistics(vae, mean, std)
    assert "\n" not in str(error.value)
    assert vae.config.scaling_factor == 0.18215
    assert all(torch.equal(value, state_dict[key]) for key, value in vae.state_dict().items())
