"""An autoencoder against a discriminator: losses, the weight between them, and no gradient where none belongs."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from tests.components import tiny_vae
from tests.training.configurations import some_digits, tiny_train_config
from tests.training.runs import run_script
from training.config import AdversarialConfig, AutoencoderConfig, ConfigError
from training.tasks.adversarial_losses import MAX_ADAPTIVE_WEIGHT, adaptive_weight, discriminator_loss, generator_loss
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.autoencoder_loss import AutoencoderLoss
from training.tasks.losses import laplace_nll
from training.tasks.model_check import check_models
from training.tasks.patch_discriminator import PatchDiscriminator


def pixels(seed: int = 0, num: int = 4) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def noise(num: int = 4) -> torch.Tensor:
    return torch.randn(num, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_losses_of_the_discriminator():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 0.5]])
    torch.testing.assert_close(discriminator_loss(real, fake, "hinge"), torch.tensor([(0.25 + 0.75) / 2]))
    expected = F.binary_cross_entropy_with_logits(real, torch.ones(1, 2)) + F.binary_cross_entropy_with_logits(
        fake, torch.zeros(1, 2)
    )
    torch.testing.assert_close(discriminator_loss(real, fake, "vanilla"), expected[None] / 2)
    torch.testing.assert_close(generator_loss(fake), torch.tensor([1.25]))


def test_the_absolute_error_is_a_laplacian_likelihood():
    """With torch's own density, the constant added."""
    one, other, std = pixels(0), pixels(1), 0.3
    density = torch.distributions.Laplace(other, std / 2**0.5)
    constant = one[0].numel() * torch.tensor(2 * std / 2**0.5).log()
    torch.testing.assert_close(laplace_nll(one, other, std) + constant, -density.log_prob(one).flatten(1).sum(1))


def test_the_adaptive_weight_by_hand():
    """Of losses whose gradients are known: |3 a| / (|4 a| + 1e-4)."""
    layer = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    direction = torch.tensor([0.6, 0.8])
    weight = adaptive_weight(3 * (layer * direction).sum(), -4 * (layer * direction).sum(), layer)
    torch.testing.assert_close(weight, torch.tensor(3 / (4 + 1e-4)))
    assert layer.grad is None
    assert not weight.requires_grad
    vanishing = adaptive_weight(1e6 * layer.sum(), 0.0 * layer.sum(), layer)
    assert vanishing == MAX_ADAPTIVE_WEIGHT


def test_the_discriminator_judges_every_image_by_itself():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(base_channels=8)
    whole = discriminator.logits(pixels())
    assert whole.shape[1] == 1
    assert whole.shape[-1] > 1
    parts = torch.cat([discriminator.logits(image[None]) for image in pixels()])
    torch.testing.assert_close(parts, whole)
    loss = discriminator(pixels(0), pixels(1))["loss"]
    torch.testing.assert_close(discriminator(pixels(0)[2:3], pixels(1)[2:3])["loss"], loss[2:3])


def judged_loss(**settings) -> AutoencoderLoss:
    torch.manual_seed(0)
    config = AutoencoderConfig(adversarial=AdversarialConfig(scale=0.5, base_channels=8, **settings))
    return AutoencoderLoss(tiny_vae(), config, None, PatchDiscriminator(base_channels=8))


@pytest.mark.parametrize("is_adaptive", [False, True])
def test_the_loss_adds_up(is_adaptive):
    loss = judged_loss(adaptive_weight=is_adaptive)
    outputs = loss(pixels(), noise(), is_judged=True)
    (discriminator,) = loss._discriminator
    torch.testing.assert_close(outputs["adversarial"], generator_loss(discriminator.logits(outputs["decoded"])))
    expected = outputs["reconstruction"] + outputs["kl"]
    expected = expected + 0.5 * outputs["adaptive_weight"] * outputs["adversarial"]
    torch.testing.assert_close(outputs["loss"], expected)
    if not is_adaptive:
        assert (outputs["adaptive_weight"] == 1).all()
    assert "adversarial" not in loss(pixels(), noise())


def test_neither_network_gets_the_other_ones_gradient():
    loss = judged_loss()
    (discriminator,) = loss._discriminator
    assert not [name for name, _ in loss.named_parameters() if "discriminator" in name]
    outputs = loss(pixels(), noise(), is_judged=True)
    plain = loss(pixels(), noise())
    gradient = torch.autograd.grad(outputs["loss"].mean(), loss.vae.decoder.conv_in.weight, retain_graph=True)[0]
    without = torch.autograd.grad(plain["loss"].mean(), loss.vae.decoder.conv_in.weight)[0]
    assert not torch.allclose(gradient, without)  # the discriminator's opinion does reach the decoder
    outputs["loss"].mean().backward()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    loss.zero_grad()
    discriminator(pixels(), outputs["decoded"].detach())["loss"].mean().backward()
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def adversarial_config(**values):
    return tiny_train_config(
        autoencoder__adversarial={"scale": 0.5, "start_step": 2, "base_channels": 8, "num_layers": 2}, **values
    )


def test_the_discriminator_rests_during_the_warm_up():
    task = AutoencoderTask(adversarial_config(), some_digits(8), None)
    samples = [task.dataset[index] for index in range(4)]
    for step, is_judged in ((0, False), (1, False), (2, True), (3, True)):
        batch = task.prepare_batch(task.collate(samples), step)
        outputs = task.model(**batch)
        assert ("adversarial" in outputs) is is_judged
        against = task.adversary_batch(batch, outputs)
        assert (against is not None) is is_judged
        if against is not None:
            assert not against["fake"].requires_grad
            assert task.adversary(**against)["loss"].shape == (4,)


def test_the_autoencoder_starts_the_same_with_and_without():
    with_one = AutoencoderTask(adversarial_config(), some_digits(8), None)
    without = AutoencoderTask(tiny_train_config(), some_digits(8), None)
    assert without.adversary is None
    for name, tensor in without.vae.state_dict().items():
        assert torch.equal(with_one.vae.state_dict()[name], tensor)


def test_impossible_recipes_are_refused_before_training():
    check_models(adversarial_config())
    with pytest.raises(ConfigError, match=r"autoencoder.adversarial.num_layers"):
        check_models(
            tiny_train_config(
                autoencoder__adversarial={"scale": 1.0, "num_layers": 9, "base_channels": 8, "start_step": 1}
            )
        )
    perceptual = {"autoencoder__perceptual": {"scale": 1.0}}
    check_models(tiny_train_config(**perceptual))
    for changes in ({"stages": ["autoencoder", "diffusion"]}, {"text_encoder__training": "joint"}):
        with pytest.raises(ConfigError, match=r"autoencoder.perceptual.scale: needs a network"):
            check_models(tiny_train_config(**perceptual, **changes))


TRAIN = """
import json, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from tests.training.configurations import some_digits, tiny_train_config
from training.engine.interruption import StopSignal
from training.engine.tracking import MetricsLog
from training.engine.trainer import Trainer
from training.tasks.autoencoder import AutoencoderTask

accelerator = Accelerator(cpu=True)
folder = Path(sys.argv[1])
config = tiny_train_config(
    autoencoder__adversarial={"scale": 0.5, "start_step": 5, "base_channels": 8, "num_layers": 2},
    autoencoder__max_train_steps=20,
    autoencoder__train_batch_size=8 // accelerator.num_processes,
    autoencoder__kl_scale=1e-3,
)
task = AutoencoderTask(config, some_digits(64), None)
trainer = Trainer(task, config.autoencoder, accelerator, folder / "stage", MetricsLog(folder / "metrics.jsonl"),
                  StopSignal(), seed=0, config={}, check_resumable=lambda saved, place: None)
trainer.average = None
trainer.fit()
weights = {**{f"vae/{k}": v for k, v in task.vae.state_dict().items()},
           **{f"discriminator/{k}": v for k, v in task.adversary.state_dict().items()}}
torch.save(weights, folder / f"{accelerator.process_index}-of-{accelerator.num_processes}.pt")
accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_keep_both_networks_equal(tmp_path):
    """After 20 steps the same bits on both ranks, and on the way the numbers of one process with the whole batch.

    The likelihood is the Gaussian one, which is smooth. With the absolute error, a pixel that is reconstructed exactly
    has a gradient whose sign is that of a rounding error, and one such pixel changes the adaptive weight by 1e-2.
    """
    for num_processes in (1, 2):
        script = tmp_path / "train.py"
        script.write_text(TRAIN)
        folder = tmp_path / f"by {num_processes}"
        folder.mkdir()
        run_script(script, num_processes, str(folder))
    first, second = (torch.load(tmp_path / "by 2" / f"{rank}-of-2.pt", weights_only=True) for rank in (0, 1))
    alone = torch.load(tmp_path / "by 1" / "0-of-1.pt", weights_only=True)
    assert first.keys() == second.keys() == alone.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = {
        by: [json.loads(line) for line in (tmp_path / f"by {by}" / "metrics.jsonl").read_text().splitlines()]
        for by in (1, 2)
    }
    logged = {by: {row["step"]: row for row in rows[by] if "loss" in row} for by in (1, 2)}
    assert "discriminator_loss" in logged[1][20]
    # Rounding makes a difference of 5e-6.
    for step in range(1, 21):
        for name in ("loss", "adaptive_weight", "discriminator_loss"):
            if name in logged[1][step]:
                one, two = logged[1][step][name], logged[2][step][name]
                assert two == pytest.approx(one, rel=1e-4), (step, name)
