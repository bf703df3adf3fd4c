"""The autoencoder's stage: the bound of the report, and an export with standard latents."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sd_pipeline import SDAutoencoderKL
from sd_pipeline.stock_config import facts_of
from tests.components import tiny_vae
from tests.training.configurations import some_digits, tiny_train_config
from tests.training.data.image_folders import write_shapes
from training.config import AutoencoderConfig
from training.data.captioned_images import CaptionedImages
from training.data.image_folder import ImageFolderSource
from training.engine.random_streams import standard_normal
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.autoencoder_loss import AutoencoderLoss
from training.tasks.losses import bernoulli_nll

NUM_VALUES = 3 * 32 * 32


def pixels(num: int = 3) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def noise(num: int = 3) -> torch.Tensor:
    return torch.randn(num, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def encode_and_decode(vae: SDAutoencoderKL) -> tuple:
    """The posterior, and what is decoded from z = E(x) + sigma(x) noise."""
    posterior = vae.encode(pixels()).latent_dist
    return posterior, vae.decode(posterior.mean + posterior.std * noise()).sample


@torch.no_grad()
def test_the_loss_is_report_equation_9():
    """1/2 |x - D(z)|^2 + 1/2 (N sigma^2 + |E(x)|^2 - N - 2 N ln sigma), one sigma an image, here a pixel value."""
    vae = tiny_vae(posterior="isotropic")
    output = AutoencoderLoss(vae, AutoencoderConfig(likelihood_std=1.0))(pixels(), noise())
    posterior, decoded = encode_and_decode(vae)
    sigma, n = posterior.std.flatten(1)[:, 0], posterior.mean[0].numel()
    distance = (pixels() - decoded).flatten(1).norm(dim=1).square()
    kl = (n * sigma**2 + posterior.mean.flatten(1).norm(dim=1).square() - n - 2 * n * sigma.log()) / 2
    torch.testing.assert_close(output["loss"] * NUM_VALUES, distance / 2 + kl)


@torch.no_grad()
@pytest.mark.parametrize("std", [0.1, 0.5])
def test_the_loss_is_the_negative_bound_up_to_the_constant(std):
    """-E ln p(x|z) + KL(q(z|x) || p(z)) (report eq. 8), with torch's own densities."""
    vae = tiny_vae()
    output = AutoencoderLoss(vae, AutoencoderConfig(likelihood_std=std))(pixels(), noise())
    posterior, decoded = encode_and_decode(vae)
    log_likelihood = Normal(decoded, std).log_prob(pixels()).flatten(1).sum(1)
    kl = kl_divergence(Normal(posterior.mean, posterior.std), Normal(0.0, 1.0)).flatten(1).sum(1)
    constant = NUM_VALUES * math.log(std * math.sqrt(2 * math.pi))
    torch.testing.assert_close(output["loss"] * NUM_VALUES + constant, kl - log_likelihood)
    torch.testing.assert_close(output["kl"] * NUM_VALUES, kl)


@torch.no_grad()
def test_the_bernoulli_likelihood_and_the_factor_of_kl():
    vae = tiny_vae()
    output = AutoencoderLoss(vae, AutoencoderConfig(likelihood="bernoulli", kl_scale=0.25))(pixels(), noise())
    posterior, decoded = encode_and_decode(vae)
    torch.testing.assert_close(output["reconstruction"] * NUM_VALUES, bernoulli_nll(pixels(), decoded))
    torch.testing.assert_close(output["loss"], output["reconstruction"] + 0.25 * posterior.kl() / NUM_VALUES)


def test_the_learned_scale_ends_at_the_error_of_the_pixels():
    """The best standard deviation is the root mean square error; there the bound with its constant is lowest."""
    loss = AutoencoderLoss(tiny_vae(), AutoencoderConfig(likelihood_std=0.7, learn_likelihood_std=True))
    optimizer = torch.optim.Adam([loss.log_std], lr=0.02)
    for _ in range(300):
        output = loss(pixels(), noise())
        optimizer.zero_grad()
        output["loss"].mean().backward()
        optimizer.step()
    error = float((pixels() - output["decoded"].detach()).square().mean().sqrt())
    assert output["likelihood_std"].tolist() == pytest.approx([error] * 3, rel=1e-3)
    log_likelihood = Normal(output["decoded"], error).log_prob(pixels()).flatten(1).mean(1)
    expected = -log_likelihood - math.log(math.sqrt(2 * math.pi))
    torch.testing.assert_close(output["reconstruction"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"likelihood": "laplace", "likelihood_std": 0.2}, {"likelihood": "laplace", "likelihood_std": 0.2}),
        ({"likelihood": "bernoulli"}, {"likelihood": "bernoulli"}),
        ({"likelihood_std": 0.3, "learn_likelihood_std": True}, {"likelihood": "gaussian", "likelihood_std": 0.25}),
    ],
)
def test_the_export_records_the_likelihood(tmp_path, block, expected):
    task = task_of(**{f"autoencoder__{key}": value for key, value in block.items()})
    if task.model.log_std is not None:
        torch.nn.init.constant_(task.model.log_std, math.log(0.25))
    task.export(tmp_path)
    facts = facts_of(SDAutoencoderKL.from_pretrained(tmp_path / "vae").config)
    assert {key: facts[key] for key in expected} == pytest.approx(expected)
    assert set(facts) == {"prior_mean", "prior_std", *expected}


def test_encoder_and_decoder_learn_through_the_sample():
    vae = tiny_vae()
    AutoencoderLoss(vae, AutoencoderConfig())(pixels(), noise())["reconstruction"].mean().backward()
    assert [name for name, parameter in vae.named_parameters() if parameter.grad is None] == []
    rows = vae.quant_conv.weight.grad.flatten(1).abs().sum(1)
    assert (rows > 0).all()  # Means and log-variances.


def task_of(images: int = 40, validation: int | None = 6, **values) -> AutoencoderTask:
    held_out = None if validation is None else some_digits(validation, "validation")
    return AutoencoderTask(tiny_train_config(**values), some_digits(images), held_out)


def test_noise_belongs_to_the_sample():
    task = task_of()
    keys = [(100, 3), (7, 0), (2000, 5)]
    batch = task.collate([task.dataset[key] for key in keys])
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert torch.equal(batch["noise"], standard_normal(0, "autoencoder/posterior", [100, 7, 2000], (4, 8, 8)))
    alone = task.collate([task.dataset[keys[1]]])
    assert all(torch.equal(alone[name][0], batch[name][1]) for name in batch)


def shifted(task: AutoencoderTask) -> AutoencoderTask:
    """Make raw latents that are far from standard."""
    with torch.no_grad():
        task.vae.quant_conv.weight.mul_(4.0)
        task.vae.quant_conv.bias.copy_(torch.tensor([1.0, -3.0, 0.5, 8.0, -2.0, 1.0, 2.0, 3.0]))
    return task


def sampled_latents(vae: SDAutoencoderKL, task: AutoencoderTask) -> torch.Tensor:
    """Sample the latents of all training images, with the noise of their numbers."""
    batch = task.collate([task.dataset[index] for index in range(len(task.dataset))])
    posterior = vae.encode(batch["pixel_values"]).latent_dist
    return posterior.reparameterise(batch["noise"])


@torch.no_grad()
@pytest.mark.parametrize("posterior", ["diagonal", "isotropic", "cholesky"])
def test_the_export_has_standard_latents_and_decodes_as_before(tmp_path, posterior):
    vae = {**tiny_train_config().autoencoder.vae, "posterior": posterior}
    task = shifted(task_of(autoencoder__vae=vae, diffusion__cache_latents=False))
    raw = sampled_latents(task.vae, task)
    decoded = task.vae.decode(raw).sample
    channels = raw.transpose(0, 1).flatten(1)
    assert (channels.std(1) - 1).abs().max() > 0.2
    assert channels.mean(1).abs().max() > 0.2

    task.export(tmp_path)
    exported = SDAutoencoderKL.from_pretrained(tmp_path / "vae")
    latents = sampled_latents(exported, task)
    channels = latents.double().transpose(0, 1).flatten(1)
    variances = channels.var(1, correction=0)
    if posterior == "isotropic":  # One number divides all channels.
        variances = variances.mean(0, keepdim=True)
    torch.testing.assert_close(channels.mean(1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(variances.sqrt(), torch.ones_like(variances), rtol=0, atol=1e-5)
    torch.testing.assert_close(exported.decode(latents).sample, decoded, rtol=0, atol=1e-4)
    assert exported.config.scaling_factor == 1.0
    assert exported.config.posterior == posterior


def test_statistics_are_of_sampled_latents():
    """In a model whose posterior is wide, the deviation of the means alone would be far too small."""
    task = task_of(images=64)
    with torch.no_grad():
        task.vae.quant_conv.weight.zero_()
        task.vae.quant_conv.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0, *(2 * math.log(s) for s in (1, 2, 3, 4))]))
    mean, std = task.latent_statistics()
    assert (mean.dtype, std.dtype) == (torch.float64, torch.float64)
    places = 64 * 64
    truth = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert ((mean - truth).abs() < 4 * truth / places**0.5).all()
    assert ((std / truth - 1).abs() < 4 / (2 * places) ** 0.5).all()


@pytest.mark.parametrize(("log_variance", "is_warned"), [(-4.0, False), (-35.0, True), (25.0, True)])
def test_a_clamped_posterior_is_told(recwarn, log_variance, is_warned):
    """The clamp of the log-variance lies outside the fold, so it must be inactive for the fold to be exact."""
    task = task_of(images=8)
    with torch.no_grad():
        task.vae.quant_conv.bias[4:] = log_variance
    task.latent_statistics()
    assert any("clamped" in str(warning.message) for warning in recwarn) == is_warned


@torch.no_grad()
def test_large_data_sets_are_measured_in_part(monkeypatch):
    monkeypatch.setattr("training.tasks.autoencoder._STATISTICS_IMAGES", 10)
    task = shifted(task_of(images=40))
    posterior = task.vae.encode(torch.stack([task.dataset[i]["pixel_values"] for i in range(0, 40, 4)])).latent_dist
    drawn = posterior.mean + posterior.std * standard_normal(0, "autoencoder/posterior", range(10), (4, 8, 8))
    expected = drawn.double().transpose(0, 1).flatten(1)
    mean, std = task.latent_statistics()
    torch.testing.assert_close(mean, expected.mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(std, expected.std(1, correction=0), rtol=0, atol=1e-5)


@torch.no_grad()
def test_pictures_of_several_shapes(tmp_path):
    """Noise has the shape of the batch, and statistics weigh all places of all shapes alike."""
    folder = write_shapes(tmp_path, [(60, 30), (40, 40), (30, 60)] * 14)
    images = CaptionedImages(ImageFolderSource(folder), 32, aspect_ratio_bucket_step=8)
    task = shifted(AutoencoderTask(tiny_train_config(), images, None))
    places = []
    for index in range(len(images)):
        batch = task.collate([images[index]])
        assert batch["noise"].shape[-2:] == tuple(side // 4 for side in batch["pixel_values"].shape[-2:])
        posterior = task.vae.encode(batch["pixel_values"]).latent_dist
        places.append((posterior.mean + posterior.std * batch["noise"])[0].flatten(1).double())
    expected = torch.cat(places, dim=1)
    mean, std = task.latent_statistics()
    torch.testing.assert_close(mean, expected.mean(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(std, expected.std(1, correction=0), rtol=0, atol=1e-5)


@torch.no_grad()
def test_validation_measures_and_draws_held_out_images():
    validation = task_of().validate(0)
    assert 0 < validation.metrics["psnr"] < 40
    assert validation.images["reconstruction"].size == (6 * 32, 2 * 32)
    for validation_images in (None, 0):
        nothing = task_of(validation=validation_images).validate(0)
        assert (nothing.metrics, nothing.images) == ({}, {})


def test_the_same_seed_gives_the_same_start():
    torch.manual_seed(99)
    one, two, other = task_of(), task_of(), task_of(seed=1)
    assert all(torch.equal(one.vae.state_dict()[key], value) for key, value in two.vae.state_dict().items())
    assert not torch.equal(one.vae.quant_conv.weight, other.vae.quant_conv.weight)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        task = task_of(autoencoder__gradient_checkpointing=checkpointing)
        task.model.train()
        task.model(**task.collate([task.dataset[index] for index in range(4)]))["loss"].mean().backward()
        gradients.append([parameter.grad for parameter in task.model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
