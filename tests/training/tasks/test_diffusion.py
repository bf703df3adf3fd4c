"""The diffusion stage: Algorithm 1, what is drawn for it, and what is frozen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sd_pipeline import SDDDPMScheduler, SDPipeline
from sd_pipeline.schedulers.bound_of_schedule import BoundOfSchedule
from sd_pipeline.schedulers.posterior import posterior_variance, transition_beta
from sd_pipeline.schedulers.signal_to_noise import min_snr_weights
from sd_pipeline.schedulers.variational_bound import epsilon_weight
from tests.components import tiny_text_encoder, tiny_tokenizer, tiny_unconditional_unet, tiny_unet, tiny_vae
from tests.training.configurations import some_digits, tiny_train_config
from training.config import DiffusionConfig
from training.engine.random_streams import standard_normal
from training.tasks.components import FrozenModels
from training.tasks.diffusion import DenoisingModel, DiffusionTask

TIMESTEPS = torch.tensor([0, 3, 500, 999])
SPECK = torch.zeros(3, 4, 4)  # The smallest picture, to draw many samples quickly.
PREDICTIONS = ("epsilon", "sample", "v_prediction", "mean")


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def arguments(**more) -> dict[str, torch.Tensor]:
    return {"latents": draws(0, 4, 4, 8, 8), "noise": draws(1, 4, 4, 8, 8), "timesteps": TIMESTEPS, **more}


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_the_loss_is_the_mean_squared_error_of_the_target(prediction_type):
    """Algorithm 1, with x_t = sqrt(abar) x_0 + sqrt(1 - abar) epsilon and the targets written out."""
    scheduler, unet = SDDDPMScheduler(prediction_type=prediction_type), tiny_unconditional_unet()
    batch = arguments()
    x_0, epsilon = batch["latents"].double(), batch["noise"].double()
    abar = scheduler.alphas_cumprod.double()[TIMESTEPS].view(-1, 1, 1, 1)
    x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * epsilon
    before = torch.cat([torch.ones(1), scheduler.alphas_cumprod]).double()[TIMESTEPS].view(-1, 1, 1, 1)
    beta = 1 - abar / before
    target = {
        "epsilon": epsilon,
        "sample": x_0,
        "v_prediction": abar.sqrt() * epsilon - (1 - abar).sqrt() * x_0,
        "mean": (before.sqrt() * beta * x_0 + (abar / before).sqrt() * (1 - before) * x_t) / (1 - abar),
    }[prediction_type]
    prediction = unet(x_t.float(), TIMESTEPS, None).sample.double()
    expected = (target - prediction).square().flatten(1).mean(1)
    loss = DenoisingModel(unet, None, scheduler, DiffusionConfig())(**batch)["loss"]
    assert (loss.shape, loss.dtype) == ((4,), torch.float32)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_min_snr_weighs_each_sample(prediction_type):
    scheduler, unet = SDDDPMScheduler(prediction_type=prediction_type), tiny_unconditional_unet()
    plain = DenoisingModel(unet, None, scheduler, DiffusionConfig())(**arguments())["loss"]
    weighed = DenoisingModel(unet, None, scheduler, DiffusionConfig(snr_gamma=5.0))(**arguments())["loss"]
    expected = min_snr_weights(scheduler.snr(TIMESTEPS), 5.0, prediction_type, scheduler.snr(TIMESTEPS - 1))
    torch.testing.assert_close(weighed, plain * expected)


@torch.no_grad()
def test_min_snr_of_epsilon_is_the_ratio_of_the_paper():
    """w = min(snr, gamma) / snr (Hang et al. 2023)."""
    scheduler, unet = SDDDPMScheduler(), tiny_unconditional_unet()
    plain = DenoisingModel(unet, None, scheduler, DiffusionConfig())(**arguments())["loss"]
    weighed = DenoisingModel(unet, None, scheduler, DiffusionConfig(snr_gamma=5.0))(**arguments())["loss"]
    abar = scheduler.alphas_cumprod[TIMESTEPS]
    ratio = abar / (1 - abar)
    torch.testing.assert_close(weighed / plain, ratio.clamp(max=5.0) / ratio)
    assert weighed[0] < plain[0]
    assert weighed[3] == plain[3]


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_zero_terminal_snr_is_safe(prediction_type):
    scheduler = SDDDPMScheduler(prediction_type=prediction_type, rescale_betas_zero_snr=True)
    assert scheduler.alphas_cumprod[-1] == 0
    model = DenoisingModel(tiny_unconditional_unet(), None, scheduler, DiffusionConfig(snr_gamma=5.0))
    loss = model(**arguments())["loss"]
    loss.mean().backward()
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


HYBRID = DiffusionConfig(objective="hybrid", scheduler={"variance_type": "learned_range"})
BOUNDS = [DiffusionConfig(objective="weighted"), DiffusionConfig(objective="vlb"), HYBRID]


def losses_of(settings: DiffusionConfig, timesteps: torch.Tensor = TIMESTEPS, **schedule) -> dict[str, torch.Tensor]:
    scheduler = SDDDPMScheduler(clip_sample=False, **{**schedule, **settings.scheduler})
    unet = tiny_unconditional_unet(out_channels=8 if settings.learns_variance else 4)
    return DenoisingModel(unet, None, scheduler, settings)(**arguments(timesteps=timesteps))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_the_weighted_objective_is_the_simple_one_in_bits(prediction_type, variance_type):
    """Eq. 23: the same squared error, by beta^2 / (2 sigma^2 alpha (1 - abar)) for epsilon and likewise for others."""
    choice = {"prediction_type": prediction_type, "variance_type": variance_type}
    timesteps = torch.tensor([1, 3, 500, 999])
    simple = losses_of(DiffusionConfig(), timesteps, **choice)["loss"].double()
    weighted = losses_of(BOUNDS[0], timesteps, **choice)["loss"].double()
    alphas = SDDDPMScheduler(**choice).alphas_cumprod.double()
    a, before = alphas[timesteps], alphas[timesteps - 1]
    variance = transition_beta(a, before) if variance_type == "fixed_large" else posterior_variance(a, before)
    of_epsilon = epsilon_weight(variance, a, before)
    factor = {
        "epsilon": of_epsilon,
        "sample": of_epsilon * a / (1 - a),
        "v_prediction": of_epsilon * a,
        "mean": 1 / (2 * variance),
    }[prediction_type]
    torch.testing.assert_close(weighted, simple * factor * 1000 / math.log(2), rtol=2e-3, atol=0)


@pytest.mark.parametrize("settings", BOUNDS, ids=lambda settings: settings.objective)
@pytest.mark.parametrize("schedule", [{}, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}])
def test_all_objectives_are_finite_and_train(settings, schedule):
    losses = losses_of(settings, **schedule)
    assert all(loss.shape == (4,) and torch.isfinite(loss).all() for loss in losses.values())
    assert losses["loss"].requires_grad


@torch.no_grad()
def test_the_average_over_all_timesteps_is_the_bound():
    """T times a term, its timestep drawn evenly, has the sum of all terms as its expectation."""
    timesteps = torch.arange(8)
    scheduler = SDDDPMScheduler(num_train_timesteps=8, beta_start=0.1, beta_end=0.6, clip_sample=False)
    x_0, noise = (draws(seed, 1, 4, 8, 8).expand(8, -1, -1, -1) for seed in (0, 1))
    unet = tiny_unconditional_unet()
    loss = DenoisingModel(unet, None, scheduler, BOUNDS[1])(latents=x_0, noise=noise, timesteps=timesteps)["loss"]
    x_t = scheduler.add_noise(x_0, noise, timesteps)
    terms = BoundOfSchedule(scheduler, "gaussian").term(unet(x_t, timesteps, None).sample, x_0, x_t, timesteps)
    torch.testing.assert_close(loss.mean(), terms.sum() / (math.log(2) * 256), rtol=1e-4, atol=0)


def test_the_bound_of_the_hybrid_trains_the_variance_alone():
    scheduler = SDDDPMScheduler(clip_sample=False, variance_type="learned_range")
    unet = tiny_unconditional_unet(out_channels=8)
    losses = DenoisingModel(unet, None, scheduler, HYBRID)(**arguments())
    torch.testing.assert_close(losses["loss"], losses["simple"] + 0.001 * losses["vlb"])
    last = unet.conv_out.weight
    of = {part: torch.autograd.grad(losses[part].sum(), last, retain_graph=True)[0] for part in ("simple", "vlb")}
    assert of["vlb"][:4].abs().max() == 0
    assert of["vlb"][4:].abs().max() > 0
    assert of["simple"][:4].abs().max() > 0
    assert of["simple"][4:].abs().max() == 0


@pytest.mark.parametrize("joint", [True, False])
def test_a_joint_text_encoder_learns_and_a_frozen_one_does_not(joint):
    tokenizer = tiny_tokenizer()
    text_encoder = tiny_text_encoder(tokenizer)
    task = task_of(FrozenModels(tokenizer, text_encoder, tiny_vae()), joint=joint)
    batch = task.prepare_batch(task.collate([task.dataset[index] for index in range(4)]), 0)
    task.model(**batch)["loss"].mean().backward()
    learning = [name for name, parameter in text_encoder.named_parameters() if parameter.grad is not None]
    assert bool(learning) == joint
    assert all(parameter.requires_grad == joint for parameter in text_encoder.parameters())
    assert (("text_encoder" in dict(task.model.named_children())), task.learns_text) == (joint, joint)
    if joint:
        assert len(learning) == len(list(text_encoder.parameters()))


@torch.no_grad()
def test_joint_and_frozen_encodings_are_the_same():
    tokenizer, vae = tiny_tokenizer(), tiny_vae()
    losses = []
    for joint in (True, False):
        task = task_of(FrozenModels(tokenizer, tiny_text_encoder(tokenizer), vae), joint=joint)
        batch = task.prepare_batch(task.collate([task.dataset[index] for index in range(6)]), 0)
        losses.append(task.model(**batch)["loss"])
    torch.testing.assert_close(losses[0], losses[1])


def task_of(frozen: FrozenModels | None = None, images: int = 12, *, joint: bool = False, **values) -> DiffusionTask:
    """Make a task of tiny components; without any it is an unconditional model in pixel space."""
    frozen = frozen or FrozenModels()
    unet = tiny_unet() if frozen.text_encoder is not None else tiny_unconditional_unet()
    keys = ("block_out_channels", "down_block_types", "mid_block_type", "up_block_types", "layers_per_block")
    block = {key: unet.config[key] for key in (*keys, "attention_head_dim", "norm_num_groups")}
    defaults = {
        "diffusion__unet": block,
        "diffusion__cache_latents": False,
        "text_encoder__training": "joint" if joint else "contrastive",
    }
    return DiffusionTask(tiny_train_config(**{**defaults, **values}), some_digits(images), frozen)


@pytest.fixture(scope="module")
def frozen():
    tokenizer = tiny_tokenizer()
    return FrozenModels(tokenizer, tiny_text_encoder(tokenizer), tiny_vae())


def samples(task: DiffusionTask, numbers) -> list:
    return [task.dataset[(number, number % len(task.dataset))] for number in numbers]


@pytest.mark.parametrize("text", [True, False])
def test_what_is_drawn_does_not_depend_on_the_split(frozen, text):
    task = task_of(frozen if text else FrozenModels(vae=frozen.vae), diffusion__noise_offset=0.1)
    whole = task.collate(samples(task, range(40, 52)))
    assert ("input_ids" in whole) == text
    parts = [task.collate(samples(task, part)) for part in (range(40, 45), range(45, 52))]
    for name in {"pixel_values", "noise", "posterior_noise", "timesteps"}:
        assert torch.equal(whole[name], torch.cat([part[name] for part in parts]))
    if text:
        tokens = [part["input_ids"][part["caption_rows"]] for part in (whole, *parts)]
        assert torch.equal(tokens[0], torch.cat(tokens[1:]))


def test_streams_of_one_sample_differ(frozen):
    batch = task_of(frozen).collate(samples(task_of(frozen), range(200)))
    noise, posterior = batch["noise"].flatten(), batch["posterior_noise"].flatten()
    assert abs(np.corrcoef(noise, posterior)[0, 1]) < 4 / len(noise) ** 0.5


@pytest.mark.parametrize("sampling", ["uniform", "stratified"])
def test_timesteps_are_uniform_over_the_schedule(sampling):
    task = task_of(diffusion__scheduler={"num_train_timesteps": 10}, diffusion__timestep_sampling=sampling)
    fake = [{"sample_number": number, "pixel_values": SPECK} for number in range(4000)]
    timesteps = task.collate(fake)["timesteps"]
    assert timesteps.dtype == torch.int64
    counts = torch.bincount(timesteps, minlength=10)
    assert len(counts) == 10
    assert ((counts - 400).abs() < (3 if sampling == "stratified" else 4 * 400**0.5)).all()


@pytest.mark.parametrize("proportion", [0.0, 0.3, 1.0])
def test_captions_are_dropped_at_their_rate(frozen, proportion):
    task = task_of(frozen, diffusion__proportion_empty_prompts=proportion)
    captioned = [{"sample_number": number, "caption": "a red circle", "pixel_values": SPECK} for number in range(4000)]
    batch = task.collate(captioned)
    texts = [text.strip() for text in frozen.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)]
    assert set(texts) <= {"", "a red circle"}
    drops = sum(texts[row] == "" for row in batch["caption_rows"])
    if proportion in (0.0, 1.0):
        assert drops == 4000 * proportion
    else:
        assert abs(drops / 4000 - proportion) < 4 * math.sqrt(proportion * (1 - proportion) / 4000)


def test_every_sample_keeps_its_own_caption(frozen):
    task = task_of(frozen, diffusion__proportion_empty_prompts=0.0)
    batch = task.collate(samples(task, range(24)))
    texts = frozen.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert len(set(texts)) == len(texts) == 10
    seen = [texts[row].strip() for row in batch["caption_rows"]]
    assert seen == [sample["caption"] for sample in samples(task, range(24))]


def test_offset_noise_is_equal_over_an_image(frozen):
    """noise' = noise + offset * z, z one number an image and channel."""
    plain, offset = (task_of(frozen, diffusion__noise_offset=value) for value in (0.0, 0.5))
    difference = (
        offset.collate(samples(offset, range(300)))["noise"] - plain.collate(samples(plain, range(300)))["noise"]
    )
    assert difference.flatten(2).std(2).max() < 1e-5
    z = difference.mean((2, 3)) / 0.5
    assert abs(z.mean()) < 4 / z.numel() ** 0.5
    assert abs(z.std() - 1) < 4 / (2 * z.numel()) ** 0.5
    assert torch.equal(
        plain.collate(samples(plain, [7]))["noise"], standard_normal(0, "diffusion/noise", [7], (4, 8, 8))
    )


@torch.no_grad()
def test_latents_are_sampled_and_scaled(frozen):
    task = task_of(frozen)
    batch = task.collate(samples(task, range(5)))
    posterior = frozen.vae.encode(batch["pixel_values"]).latent_dist
    expected = (posterior.mean + posterior.std * batch["posterior_noise"]) * frozen.vae.config.scaling_factor
    torch.testing.assert_close(task.prepare_batch(batch, 0)["latents"], expected)


@pytest.mark.parametrize("cached", [False, True])
def test_latents_may_be_the_mode_of_the_posterior(frozen, cached, tmp_path):
    task = task_of(
        frozen, diffusion__sample_posterior=False, diffusion__cache_latents=cached, output_dir=str(tmp_path)
    )
    batch = task.collate(samples(task, range(5)))
    assert "posterior_noise" not in batch
    images = torch.stack([task_of(frozen).dataset[number]["pixel_values"] for number in range(5)])
    expected = frozen.vae.encode(images).latent_dist.mode() * frozen.vae.config.scaling_factor
    torch.testing.assert_close(task.prepare_batch(batch, 0)["latents"], expected, rtol=1e-4, atol=1e-5)


def test_cached_latents_are_those_of_the_images(frozen, tmp_path):
    prepared = []
    for cached in (False, True):
        task = task_of(frozen, diffusion__cache_latents=cached, output_dir=str(tmp_path))
        prepared.append(task.prepare_batch(task.collate(samples(task, range(40, 48))), 0))
    assert prepared[0].keys() == prepared[1].keys()
    for name, value in prepared[0].items():
        torch.testing.assert_close(prepared[1][name], value)


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_the_cache_lies_where_the_configuration_says(frozen, tmp_path, chosen):
    folder = None if chosen is None else str(tmp_path / chosen)
    values = {"diffusion__cache_latents": True, "diffusion__latent_cache_dir": folder}
    task = task_of(frozen, output_dir=str(tmp_path / "run"), **values)
    expected = tmp_path / (chosen or "run/latents")
    assert task.dataset.folder == expected
    assert (expected / "cache.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [chosen or "run"]


def test_frozen_models_stay_as_they_are(frozen):
    task = task_of(frozen)
    task.model.train()
    before = {name: value.clone() for name, value in frozen.vae.state_dict().items()}
    trained = {id(parameter) for group in task.parameter_groups() for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in task.unet.parameters()}
    task.model(**task.prepare_batch(task.collate(samples(task, range(2))), 0))["loss"].mean().backward()
    for model in (frozen.vae, frozen.text_encoder):
        assert not model.training
        assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in frozen.vae.state_dict().items())


def test_a_joint_text_encoder_may_have_its_own_learning_rate():
    tokenizer = tiny_tokenizer()
    models = FrozenModels(tokenizer, tiny_text_encoder(tokenizer), tiny_vae())
    for rate, expected in ((None, 1e-3), (1e-5, 1e-5)):
        task = task_of(models, joint=True, diffusion__text_encoder_learning_rate=rate)
        groups = task.parameter_groups()
        text = {id(parameter) for parameter in models.text_encoder.parameters()}
        rates = {group["lr"] for group in groups if id(group["params"][0]) in text}
        assert rates == {expected}
        assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in task.model.parameters()}


def test_a_contrastive_text_encoder_may_go_on_learning():
    tokenizer = tiny_tokenizer()
    models = FrozenModels(tokenizer, tiny_text_encoder(tokenizer), tiny_vae())
    task = task_of(models, diffusion__train_text_encoder=True)
    trained = {id(parameter) for group in task.parameter_groups() for parameter in group["params"]}
    assert {id(parameter) for parameter in models.text_encoder.parameters()} < trained
    task.model(**task.prepare_batch(task.collate(samples(task, range(4))), 0))["loss"].mean().backward()
    gradients = [parameter.grad for parameter in models.text_encoder.parameters()]
    assert all(gradient is not None for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_pixel_space_needs_no_earlier_stage():
    task = task_of()
    batch = task.prepare_batch(task.collate(samples(task, range(2))), 0)
    assert torch.equal(batch["latents"], torch.stack([sample["pixel_values"] for sample in samples(task, range(2))]))
    assert set(batch) == {"latents", "noise", "timesteps"}
    assert task.scheduler.config.clip_sample
    loss = task.model(**batch)["loss"]
    assert loss.shape == (2,)
    assert torch.isfinite(loss).all()


def test_validation_pictures_are_fixed(frozen):
    """Neither the global generator nor the step moves them: two pictures differ only as the weights do."""
    with torch.no_grad():
        for models, size in ((frozen, (32, 32)), (FrozenModels(), (8 * 32, 32))):
            task = task_of(models, evaluation__guidance_scale=1.5)
            task.model.eval()
            pictures = []
            for seed in (1, 2):
                torch.manual_seed(seed)
                pictures.append(task.validate(seed).images["samples"])
            assert pictures[0].size == size
            assert np.array_equal(*map(np.asarray, pictures))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_recommended_call_goes_into_the_export(frozen, tmp_path, eta):
    task_of(frozen, evaluation__eta=eta, evaluation__guidance_scale=1.5).export(tmp_path / "pipeline")
    recommended = SDPipeline.from_pretrained(tmp_path / "pipeline").config["recommended_call"]
    expected = {"num_inference_steps": 2, "guidance_scale": 1.5} | ({"eta": eta} if eta else {})
    assert recommended == expected


def test_prompts_are_those_of_the_data_where_none_are_given(frozen):
    task = task_of(frozen, evaluation__validation_prompts=[])
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    assert task.prompts() == [f"a handwritten {word}" for word in words]


def test_the_same_seed_gives_the_same_start(frozen):
    torch.manual_seed(99)
    one, two, other = task_of(frozen), task_of(frozen), task_of(frozen, seed=1)
    assert all(torch.equal(one.unet.state_dict()[key], value) for key, value in two.unet.state_dict().items())
    assert not torch.equal(one.unet.conv_in.weight, other.unet.conv_in.weight)


def test_gradient_checkpointing_changes_no_gradient(frozen):
    gradients = []
    for checkpointing in (False, True):
        task = task_of(frozen, diffusion__gradient_checkpointing=checkpointing)
        task.model.train()
        task.model(**task.prepare_batch(task.collate(samples(task, range(4))), 0))["loss"].mean().backward()
        gradients.append([parameter.grad for parameter in task.unet.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
