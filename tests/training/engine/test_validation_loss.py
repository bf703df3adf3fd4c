"""The loss on held-out images: the same in every validation, of raw and averaged weights, and of their timesteps."""

from __future__ import annotations

import json

import pytest
import torch
from accelerate import Accelerator

from tests.components import tiny_text_encoder, tiny_tokenizer, tiny_vae
from tests.training.configurations import WITHOUT_TEXT, some_digits, tiny_train_config
from tests.training.data.image_folders import write_shapes
from tests.training.runs import run_script
from training.data.captioned_images import CaptionedImages
from training.data.held_out_draws import VALIDATION_IMAGES, fixed_noise
from training.data.image_folder import ImageFolderSource
from training.engine.ema import AveragedWeights
from training.engine.task import Batch
from training.engine.timestep_losses import timestep_ranges
from training.engine.validation_loss import validated
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.components import FrozenModels
from training.tasks.diffusion import DiffusionTask
from training.tasks.held_out_images import MOST_IMAGES
from training.tasks.text_encoder import TextEncoderTask

RANGES = [f"loss_{name}" for name in timestep_ranges(1000)]


def models(with_text: bool = True) -> FrozenModels:
    tokenizer = tiny_tokenizer()
    return FrozenModels(tokenizer, tiny_text_encoder(tokenizer), tiny_vae()) if with_text else FrozenModels()


def task_of(frozen: FrozenModels | None = None, held_out: CaptionedImages | None = None, **values) -> DiffusionTask:
    frozen = frozen or models()
    unet = {"diffusion__unet": WITHOUT_TEXT} if frozen.text_encoder is None else {}
    config = tiny_train_config(**{"diffusion__cache_latents": False, **unet, **values})
    held_out = some_digits(7, "validation") if held_out is None else held_out
    return DiffusionTask(config, some_digits(8), frozen, validation_dataset=held_out)


def losses(task, average: AveragedWeights | None = None) -> dict[str, float]:
    return validated(task, 1, Accelerator(cpu=True), average).metrics


def whole(task: DiffusionTask) -> Batch:
    """Put all validation batches together, but for the tokens, whose numbers differ."""
    batches = [make() for make in task.validation_batches()]
    names = set(batches[0]) - {"input_ids", "caption_rows"}
    together = {name: torch.cat([batch[name] for batch in batches]) for name in names}
    if "input_ids" in batches[0]:
        together["tokens"] = torch.cat([batch["input_ids"][batch["caption_rows"]] for batch in batches])
    return together


def by_hand(task: DiffusionTask) -> torch.Tensor:
    with torch.no_grad():
        task.model.eval()
        made = [task.model(**task.prepare_batch(make(), 1))["loss"] for make in task.validation_batches()]
    return torch.cat(made).double()


def test_two_validations_are_the_same_to_the_bit():
    """Neither the global generator nor dropout moves them, and the model learns on as before."""
    task = task_of(diffusion__unet={**tiny_train_config().diffusion.unet, "dropout": 0.5})
    task.model.train()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(losses(task))
    assert found[0] == found[1]
    assert list(found[0]) == ["loss", *RANGES]
    assert task.model.training


@pytest.mark.parametrize("inpainting", [False, True])
def test_another_seed_asks_the_same(inpainting):
    frozen = models()
    one, other = (task_of(frozen, diffusion__inpainting=inpainting, seed=seed) for seed in (0, 9))
    assert not torch.equal(one.unet.conv_in.weight, other.unet.conv_in.weight)
    asked = [whole(task) for task in (one, other)]
    assert asked[0].keys() == asked[1].keys() >= {"latents", "noise", "timesteps", "tokens"}
    assert ("added_channels" in asked[0]) == inpainting
    for name, value in asked[0].items():
        assert torch.equal(value, asked[1][name]), name
    other.unet.load_state_dict(one.unet.state_dict())
    assert losses(one) == losses(other)


def test_an_image_keeps_its_latents_and_caption_at_one_timestep_of_each_stratum():
    task = task_of(held_out=some_digits(3, "validation"), diffusion__proportion_empty_prompts=1.0)
    asked = whole(task)
    assert asked["timesteps"].view(3, 10).div(100, rounding_mode="floor").tolist() == [list(range(10))] * 3
    for name in ("latents", "tokens"):
        of_image = asked[name].unflatten(0, (3, 10))
        assert torch.equal(of_image, of_image[:, :1].expand_as(of_image))
    texts = task.frozen.tokenizer.batch_decode(asked["tokens"], skip_special_tokens=True)
    assert [text.strip() for text in texts[::10]] == [task.held_out.dataset[i]["caption"] for i in range(3)]
    assert len(torch.unique(asked["noise"].flatten(1), dim=0)) == 30


@pytest.mark.parametrize("sample_posterior", [True, False])
def test_latents_are_those_of_the_training_and_encoded_once(sample_posterior, monkeypatch):
    task = task_of(diffusion__sample_posterior=sample_posterior)
    posterior = task.frozen.vae.encode(torch.stack([task.held_out.dataset[i]["pixel_values"] for i in range(7)]))
    noise = fixed_noise("posterior", range(7), (4, 8, 8)) if sample_posterior else torch.zeros(7, 4, 8, 8)
    expected = posterior.latent_dist.reparameterise(noise) * task.frozen.vae.config.scaling_factor
    torch.testing.assert_close(whole(task)["latents"][::10], expected)
    monkeypatch.setattr(task.frozen.vae, "encode", None)
    losses(task)


def test_raw_and_averaged_weights_have_their_own_loss():
    task = task_of()
    average = AveragedWeights(task.model, 0.9)
    averaged = by_hand(task).mean()
    with torch.no_grad():
        task.unet.conv_out.bias.add_(0.5)
    raw = by_hand(task).mean()
    found = losses(task, average)
    assert found["loss"] == pytest.approx(float(averaged), rel=1e-6)
    assert found["loss_raw"] == pytest.approx(float(raw), rel=1e-6)
    assert abs(found["loss_raw"] - found["loss"]) > 0.1
    assert float(by_hand(task).mean()) == pytest.approx(float(raw), rel=1e-6)  # The weights stay.


def test_without_an_average_there_is_one_loss():
    task = task_of()
    found = losses(task)
    assert "loss_raw" not in found
    assert found["loss"] == pytest.approx(float(by_hand(task).mean()), rel=1e-6)


@pytest.mark.parametrize("num_timesteps", [1000, 128, 7])
def test_ranges_average_to_the_whole(num_timesteps):
    task = task_of(models(with_text=False), diffusion__scheduler={"num_train_timesteps": num_timesteps})
    found, values = losses(task), by_hand(task)
    ranges = whole(task)["timesteps"] * min(10, num_timesteps) // num_timesteps
    names = [f"loss_{name}" for name in timestep_ranges(num_timesteps)]
    assert [name for name in found if name.startswith("loss_t")] == names
    for number, name in enumerate(names):
        assert found[name] == pytest.approx(float(values[ranges == number].mean()), rel=1e-6)
    counts = torch.bincount(ranges, minlength=len(names)).tolist()
    total = sum(found[name] * count for name, count in zip(names, counts, strict=True))
    assert total / sum(counts) == pytest.approx(found["loss"], rel=1e-9)


def test_parts_of_a_loss_are_told_of_averaged_weights():
    scheduler = {"variance_type": "learned_range", "clip_sample": False}
    values = {"diffusion__scheduler": scheduler, "diffusion__objective": "hybrid"}
    task = task_of(models(with_text=False), diffusion__noise_offset=0.1, **values)
    found = losses(task, AveragedWeights(task.model, 0.9))
    assert set(found) == {"loss", "loss_raw", "simple", "vlb", *RANGES}
    assert found["loss"] == pytest.approx(found["simple"] + task.settings.vlb_scale * found["vlb"], rel=1e-5)


def test_pictures_of_several_shapes_are_seen_as_squares(tmp_path):
    folder = write_shapes(tmp_path, [(60, 30), (40, 40), (30, 60)])
    images = CaptionedImages(ImageFolderSource(folder), 32, aspect_ratio_bucket_step=8)
    assert whole(task_of(held_out=images))["latents"].shape == (30, 4, 8, 8)
    autoencoder = AutoencoderTask(tiny_train_config(), some_digits(8), images)
    assert [make()["pixel_values"].shape for make in autoencoder.validation_batches()] == [(3, 3, 32, 32)]


def test_so_many_images_and_no_more():
    task = task_of(held_out=some_digits(MOST_IMAGES + 1))
    assert len(task.validation_batches()) == MOST_IMAGES * 10 // 32
    recomputed = task_of(held_out=some_digits(MOST_IMAGES + 1), diffusion__gradient_checkpointing=True)
    assert len(recomputed.validation_batches()) == MOST_IMAGES * 10 // 8
    (first,) = AutoencoderTask(
        tiny_train_config(autoencoder__train_batch_size=1000), some_digits(8), some_digits(VALIDATION_IMAGES + 1)
    ).validation_batches()
    assert len(first()["pixel_values"]) == VALIDATION_IMAGES


def test_the_autoencoder_has_no_timesteps_and_no_judge():
    """Its discriminator differs from run to run, and its weight asks for gradients."""
    blocks = {"autoencoder__adversarial": {"scale": 0.5, "start_step": 0}, "autoencoder__train_batch_size": 4}
    tasks = [
        AutoencoderTask(tiny_train_config(seed=seed, **blocks), some_digits(8), some_digits(6, "validation"))
        for seed in (0, 9)
    ]
    for made in zip(*(task.validation_batches() for task in tasks), strict=True):
        first, second = (make() for make in made)
        assert all(torch.equal(first[name], second[name]) for name in first)
    (task, _) = tasks
    average = AveragedWeights(task.model, 0.9)
    found = losses(task, average)
    assert {"loss", "loss_raw", "reconstruction", "kl", "psnr"} <= set(found)
    assert not any(name.startswith(("adversarial", "adaptive", "loss_t")) for name in found)
    kl_scale = task.config.autoencoder.kl_scale
    assert found["loss"] == pytest.approx(found["reconstruction"] + kl_scale * found["kl"], rel=1e-5)
    assert losses(task, average) == found


def test_nothing_is_measured_where_nothing_is_held_out():
    assert task_of(held_out=some_digits(0)).validation_batches() == []
    assert (
        DiffusionTask(
            tiny_train_config(diffusion__unet=WITHOUT_TEXT, diffusion__cache_latents=False),
            some_digits(8),
            FrozenModels(),
        ).validation_batches()
        == []
    )
    assert AutoencoderTask(tiny_train_config(), some_digits(8), None).validation_batches() == []
    contrastive = TextEncoderTask(tiny_train_config(), some_digits(40), some_digits(8, "validation"))
    assert contrastive.validation_batches() == []
    assert "loss" not in losses(contrastive)


MEASURED = """
import json, sys
from pathlib import Path
from accelerate import Accelerator
from tests.training.engine.test_validation_loss import models, task_of
from training.engine.ema import AveragedWeights
from training.engine.optimisation import Optimisation
from training.engine.validation_loss import validated

accelerator = Accelerator(cpu=True)
task = task_of(models(with_text=False), diffusion__train_batch_size=4)
network = Optimisation(task.model, task.parameter_groups(), task.settings, accelerator, shardable=True)
average = AveragedWeights(task.model, 0.9)
average.load_state_dict({name: 0.9 * v if v.ndim else v for name, v in average.state_dict().items()})
found = validated(task, 1, accelerator, average).metrics
name = f"{sys.argv[2]}-{accelerator.process_index}-of-{accelerator.num_processes}.json"
(Path(sys.argv[1]) / name).write_text(json.dumps(found))
accelerator.end_training()
"""


@pytest.mark.slow
def test_any_number_of_processes_finds_the_same(tmp_path):
    """Replicated and sharded, with five batches, so that some have none left in the last round."""
    script = tmp_path / "measured.py"
    script.write_text(MEASURED)
    for number in (1, 2, 3):
        run_script(script, number, str(tmp_path), "replicated")
    run_script(script, 2, str(tmp_path), "sharded", ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    found = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert len(found) == 8
    expected = found["replicated-0-of-1"]
    assert set(expected) == {"loss", "loss_raw", *RANGES}
    assert expected["loss"] != expected["loss_raw"]
    for values in found.values():
        assert values == pytest.approx(expected, rel=1e-6)
