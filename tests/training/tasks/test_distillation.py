"""Progressive distillation: where the student's steps are to end, and what is refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from sd_pipeline import SDDDPMScheduler, SDInpaintPipeline
from sd_pipeline.pipelines.denoising import guide
from sd_pipeline.schedulers.signal_to_noise import truncated_snr_weights
from tests.components import tiny_components, tiny_unet
from tests.training.configurations import tiny_train_config
from training.config import ConfigError, DiffusionConfig, TrainConfig
from training.data.clip_tokenizer import tokenize
from training.tasks.distillation import Teacher, check_teacher, ddim_step, guidance_of_teacher, x_0_of_step
from training.tasks.timestep_sampling import draw_timesteps, timesteps_of

FROM_A_TEACHER = {
    "stages": ["diffusion"],
    "diffusion__pretrained_model_name_or_path": "a/teacher",
    "diffusion__cache_latents": False,
    "diffusion__unet": DiffusionConfig().unet,
    "evaluation": {},
}
PREDICTIONS = ("epsilon", "sample", "v_prediction")


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def config_of(**distillation) -> TrainConfig:
    return tiny_train_config(
        diffusion__distillation={"num_inference_steps": 4, **distillation},
        **FROM_A_TEACHER,
    )


def pretrained(prediction_type: str = "epsilon", **changes) -> SDInpaintPipeline:
    scheduler = DDIMScheduler(prediction_type=prediction_type, clip_sample=False, steps_offset=1)
    return SDInpaintPipeline(**{**tiny_components(), "scheduler": scheduler, **changes})


def arguments(teacher: Teacher, config: TrainConfig, hidden_states: torch.Tensor) -> dict[str, torch.Tensor]:
    timesteps = timesteps_of(config.diffusion, len(teacher.scheduler))
    shape = (len(timesteps), 4, 8, 8)
    drawn = {"latents": draws(0, *shape), "noise": draws(1, *shape), "timesteps": timesteps}
    return {**drawn, "encoder_hidden_states": hidden_states.expand(len(timesteps), -1, -1)}


def test_a_step_goes_back_to_the_x_0_that_it_came_from():
    x_0, x_t = draws(0, 3, 4, 5, 5).double(), draws(1, 3, 4, 5, 5).double()
    alpha_bar = torch.tensor([0.0, 0.3, 0.9]).double().view(-1, 1, 1, 1)
    alpha_bar_prev = torch.tensor([0.2, 0.8, 1.0]).double().view(-1, 1, 1, 1)
    x_s = ddim_step(x_0, x_t, alpha_bar, alpha_bar_prev)
    torch.testing.assert_close(x_0_of_step(x_s, x_t, alpha_bar, alpha_bar_prev), x_0)


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize(
    ("num_steps", "substeps", "guidance_scale"), [(4, 1, 1.0), (4, 2, 1.0), (2, 10, 4.0), (1, 4, 1.0), (3, 1, 1.0)]
)
def test_one_step_of_the_student_ends_where_those_of_the_teacher_end_in_diffusers(
    prediction_type, num_steps, substeps, guidance_scale
):
    """Both stepped by diffusers' DDIM; the student predicts exactly what it is asked for."""
    steps = {"num_inference_steps": num_steps, "teacher_num_inference_steps": num_steps * substeps}
    config, pipe = config_of(**steps, guidance_scale=guidance_scale), pretrained(prediction_type)
    scheduler = SDDDPMScheduler(prediction_type=prediction_type, clip_sample=False)
    teacher = Teacher(config, pipe, scheduler)
    prompt, negative = (pipe.text_encoder(tokenize(pipe.tokenizer, [text]))[0] for text in ("two", ""))
    batch = arguments(teacher, config, prompt)
    taught = teacher.teach(batch)
    sampler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True)
    x_t = scheduler.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
    torch.testing.assert_close(scheduler.add_noise(taught["latents"], taught["noise"], batch["timesteps"]), x_t)
    target = scheduler.training_target(taught["latents"], taught["noise"], batch["timesteps"])
    for row, start in enumerate(batch["timesteps"].tolist()):
        sampler.set_timesteps(num_steps * substeps)
        place = sampler.timesteps.tolist().index(start)
        sample = x_t[row][None]
        for timestep in sampler.timesteps[place : place + substeps]:
            of_prompt = pipe.unet(sample, timestep, prompt).sample
            prediction = of_prompt
            if guidance_scale > 1:
                prediction = guide(pipe.unet(sample, timestep, negative).sample, of_prompt, guidance_scale)
            sample = sampler.step(prediction, timestep, sample).prev_sample
        sampler.set_timesteps(num_steps)
        by_student = sampler.step(target[row][None], start, x_t[row][None]).prev_sample
        torch.testing.assert_close(by_student, sample, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_with_a_step_for_a_step_and_no_guidance_the_teacher_is_its_own_student():
    config = config_of(teacher_num_inference_steps=4, guidance_scale=1.0)
    pipe, scheduler = pretrained("v_prediction"), SDDDPMScheduler(prediction_type="v_prediction", clip_sample=False)
    teacher = Teacher(config, pipe, scheduler)
    batch = arguments(teacher, config, pipe.text_encoder(tokenize(pipe.tokenizer, ["two"]))[0])
    taught = teacher.teach(batch)
    x_t = scheduler.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
    own = pipe.unet(x_t, batch["timesteps"], batch["encoder_hidden_states"]).sample
    target = scheduler.training_target(taught["latents"], taught["noise"], batch["timesteps"])
    torch.testing.assert_close(target, own, rtol=1e-3, atol=1e-4)


def test_the_teacher_stays_as_it_was_while_the_student_learns():
    config, pipe = config_of(), pretrained()
    teacher = Teacher(config, pipe, SDDDPMScheduler())
    before = {name: tensor.clone() for name, tensor in teacher.unet.state_dict().items()}
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.unet.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.unet.parameters())


@torch.no_grad()
def test_a_teacher_that_inpaints_sees_the_mask_and_the_masked_picture():
    config, pipe = config_of(guidance_scale=1.0), pretrained(unet=tiny_unet(in_channels=9))
    teacher = Teacher(config, pipe, SDDDPMScheduler(clip_sample=False))
    batch = arguments(teacher, config, pipe.text_encoder(tokenize(pipe.tokenizer, ["two"]))[0])
    some, others = (teacher.teach({**batch, "added_channels": draws(seed, 4, 5, 8, 8)}) for seed in (2, 3))
    assert not torch.allclose(some["latents"], others["latents"])


@torch.no_grad()
@pytest.mark.parametrize("num_steps", [3, 4])
def test_the_student_starts_where_it_arrives_in_diffusers_by_its_own_steps(num_steps):
    config = config_of(num_inference_steps=num_steps, guidance_scale=1.0, start="student")
    pipe, scheduler = pretrained("v_prediction"), SDDDPMScheduler(prediction_type="v_prediction", clip_sample=False)
    teacher = Teacher(config, pipe, scheduler)
    for parameter in pipe.unet.parameters():  # The student has learned something since.
        parameter.mul_(1.1)
    prompt = pipe.text_encoder(tokenize(pipe.tokenizer, ["two"]))[0]
    batch = arguments(teacher, config, prompt)
    taught = teacher.teach(batch)
    found = scheduler.add_noise(taught["latents"], taught["noise"], batch["timesteps"])
    sampler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True)
    sampler.set_timesteps(num_steps)
    for row, start in enumerate(batch["timesteps"].tolist()):
        sample = batch["noise"][row][None]
        for timestep in sampler.timesteps[: sampler.timesteps.tolist().index(start)]:
            sample = sampler.step(pipe.unet(sample, timestep, prompt).sample, timestep, sample).prev_sample
        torch.testing.assert_close(found[row][None], sample, rtol=1e-3, atol=1e-4)


def test_only_the_timesteps_of_the_student_are_drawn_and_all_of_them():
    settings = config_of().diffusion
    drawn = draw_timesteps(settings, 0, range(4000), 1000)
    values, counts = drawn.unique(return_counts=True)
    assert values.tolist() == [249, 499, 749, 999]
    assert counts.min() > 850


def test_guidance_is_that_of_the_run_or_as_the_teacher_recommends_or_as_is_usual():
    recommends = pretrained(recommended_call={"guidance_scale": 3.0})
    assert guidance_of_teacher(config_of(guidance_scale=2.0), recommends) == 2.0
    assert guidance_of_teacher(config_of(), recommends) == 3.0
    assert guidance_of_teacher(config_of(), pretrained()) == 7.5


def test_an_error_of_x_0_counts_the_same_whatever_is_predicted():
    """w |d x_0|^2 with w = max(snr, 1), told by the error of each prediction."""
    ratio = torch.tensor([1e-3, 0.5, 1.0, 7.0], dtype=torch.float64)
    of_x_0 = ratio.clamp(min=1.0)
    torch.testing.assert_close(truncated_snr_weights(ratio, "sample"), of_x_0)
    torch.testing.assert_close(truncated_snr_weights(ratio, "epsilon") * ratio, of_x_0)
    torch.testing.assert_close(truncated_snr_weights(ratio, "v_prediction") * (ratio + 1), of_x_0)
    with pytest.raises(ValueError, match="prediction_type='mean' is not one of sample, epsilon, v_prediction"):
        truncated_snr_weights(ratio, "mean")


@pytest.mark.parametrize(
    ("distillation", "others", "message"),
    [
        ({"num_inference_steps": -1}, {}, "num_inference_steps = -1: must be at least 0"),
        ({"teacher_num_inference_steps": 6}, {}, "teacher_num_inference_steps = 6: must be a multiple of"),
        ({"guidance_scale": 0.5}, {}, "guidance_scale = 0.5: must be at least 1"),
        ({"num_inference_steps": 0, "guidance_scale": 2.0}, {}, "guidance_scale = 2.0: must be at least 1"),
        ({}, {"diffusion__pretrained_model_name_or_path": None}, "num_inference_steps = 4: must be 0 without"),
        ({}, {"diffusion__scheduler": {"prediction_type": "sample"}}, "diffusion.scheduler"),
        ({}, {"diffusion__objective": "vlb"}, "diffusion.objective = 'vlb': must be 'simple'"),
        ({}, {"diffusion__snr_gamma": 5.0}, "diffusion.snr_gamma = 5.0: must be null"),
        ({}, {"diffusion__train_text_encoder": True}, "diffusion.train_text_encoder = True: must be false"),
        ({}, {"diffusion__lora": {"rank": 4}}, "diffusion.lora.rank = 4: must be 0"),
        ({}, {"evaluation__num_inference_steps": 8}, "evaluation.num_inference_steps = 8: must be left out"),
        ({}, {"evaluation__scheduler_config": {"timestep_spacing": "leading"}}, "evaluation.scheduler_config"),
    ],
)
def test_what_a_configuration_cannot_ask(distillation, others, message):
    values = {
        **FROM_A_TEACHER,
        "diffusion__distillation": {"num_inference_steps": 4, **distillation},
        **others,
    }
    with pytest.raises(ConfigError) as refused:
        tiny_train_config(**values)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("distillation", "prediction_type", "message"),
    [
        ({"teacher_num_inference_steps": 1004}, "epsilon", "teacher_num_inference_steps = 1004: must be at most 1000"),
        ({}, "mean", "must not predict the mean"),
    ],
)
def test_what_a_model_cannot_teach(distillation, prediction_type, message):
    scheduler = SDDDPMScheduler(prediction_type=prediction_type)
    with pytest.raises(ConfigError) as refused:
        check_teacher(config_of(**distillation), pretrained(), scheduler)
    assert message in str(refused.value)


def test_epsilon_says_nothing_of_x_0_in_pure_noise():
    scheduler = SDDDPMScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ConfigError, match="zero terminal SNR"):
        check_teacher(config_of(), pretrained(), scheduler)
