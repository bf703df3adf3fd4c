"""Against diffusers' StableDiffusionPipeline with the same weights, and against what a caller may rely on."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback

from sd_pipeline import SDDDPMScheduler, SDPipeline
from tests.components import (
    HIDDEN_SIZE,
    MAX_LENGTH,
    tiny_components,
    tiny_scheduler,
    tiny_unconditional_unet,
    tiny_unet,
    tiny_vae,
)

PROMPT = "a red circle"
STOCK = {"num_inference_steps": 3, "guidance_scale": 4.0}
"""The recommended call of the tiny model, which stock does not know."""
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
"""How close latents are to those of diffusers: what it computes in every step is computed here in another order."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents_of(pipe, *args, seed: int = 0, **kwargs) -> torch.Tensor:
    return pipe(*args, **{"generator": generator(seed), "output_type": "latent", **kwargs}).images


SCHEDULERS = [
    "DDPMScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
]


@pytest.mark.parametrize("scheduler_name", SCHEDULERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_every_scheduler_gives_the_images_of_diffusers(pipe, stock_pipe, scheduler_name, prediction_type):
    scheduler_class = getattr(diffusers, scheduler_name)
    for one in (pipe, stock_pipe):
        one.scheduler = scheduler_class.from_config(one.scheduler.config, prediction_type=prediction_type)
    call = {**STOCK, "num_inference_steps": 4}
    ours, stock = latents_of(pipe, PROMPT, **call), latents_of(stock_pipe, PROMPT, **call)
    assert stock.std() > 0.1
    torch.testing.assert_close(ours, stock, **CLOSE)


@pytest.mark.parametrize(
    "call",
    [
        {"prompt": [PROMPT, "a blue square"]},
        {"prompt": PROMPT, "num_images_per_prompt": 3},
        {"prompt": PROMPT, "negative_prompt": "two small yellow stars"},
        {"prompt": [PROMPT, "x"], "negative_prompt": ["a blue square", ""], "num_images_per_prompt": 2},
        {"prompt": PROMPT, "guidance_scale": 1.0},
        {"prompt": PROMPT, "guidance_scale": 0.0, "negative_prompt": "a blue square"},
        {"prompt": PROMPT, "guidance_rescale": 0.7},
        {"prompt": PROMPT, "height": 16, "width": 48},
        {"prompt": PROMPT, "timesteps": [900, 500, 20]},
        {"prompt": PROMPT, "eta": 0.5},
        {"prompt": "a handwritten seven " * 20},
    ],
    ids=lambda call: "-".join(name for name in call if name != "prompt") or "prompts",
)
def test_every_argument_means_what_it_means_in_diffusers(pipe, stock_pipe, call):
    if "eta" in call:
        for one in (pipe, stock_pipe):
            one.scheduler = DDIMScheduler.from_config(one.scheduler.config)
    ours, stock = latents_of(pipe, **call), latents_of(stock_pipe, **{**STOCK, **call})
    torch.testing.assert_close(ours, stock, **CLOSE)


@pytest.mark.parametrize("output_type", ["np", "pt", "pil"])
def test_output_types_are_those_of_diffusers(pipe, stock_pipe, output_type):
    ours = pipe(PROMPT, generator=generator(), output_type=output_type).images
    stock = stock_pipe(PROMPT, generator=generator(), output_type=output_type, **STOCK).images
    assert type(ours) is type(stock)
    if output_type == "pil":
        ours, stock = np.stack([np.asarray(image) for image in ours]), np.stack([np.asarray(image) for image in stock])
        np.testing.assert_allclose(ours.astype(int), stock.astype(int), atol=1)
    else:
        np.testing.assert_allclose(np.asarray(ours), np.asarray(stock), atol=1e-4)


def test_tuple_in_place_of_the_output_object(pipe):
    images, nsfw = pipe(PROMPT, generator=generator(), return_dict=False)
    assert images[0].size == (32, 32)
    assert nsfw is None
    assert pipe(PROMPT).nsfw_content_detected is None


def test_guidance_of_scale_one_is_the_conditional_pass(pipe):
    unguided = latents_of(pipe, PROMPT, guidance_scale=1.0)
    nearly = latents_of(pipe, PROMPT, guidance_scale=1.0 + 1e-6, negative_prompt="two small yellow stars")
    torch.testing.assert_close(unguided, nearly, rtol=1e-3, atol=1e-3)


def test_prompts_matter_and_negative_prompts_too(pipe):
    plain = latents_of(pipe, PROMPT)
    assert (plain - latents_of(pipe, "a blue square")).abs().max() > 0.1
    assert (plain - latents_of(pipe, PROMPT, negative_prompt="a blue square")).abs().max() > 0.1
    same = latents_of(pipe, [PROMPT, PROMPT], negative_prompt="a blue square", generator=[generator(), generator()])
    torch.testing.assert_close(same[0], same[1])
    single = latents_of(pipe, PROMPT, negative_prompt="a blue square")
    torch.testing.assert_close(same[:1], single, **CLOSE)


def test_an_image_does_not_depend_on_the_batch_that_it_is_made_in(pipe):
    prompts = [PROMPT, "a blue square", "a handwritten seven"]
    together = latents_of(pipe, prompts, num_images_per_prompt=2, generator=[generator(seed) for seed in range(6)])
    for seed in range(6):
        alone = latents_of(pipe, prompts[seed // 2], generator=generator(seed))
        torch.testing.assert_close(together[seed : seed + 1], alone, **CLOSE)


def test_latents_in_and_out(pipe, stock_pipe):
    noise = torch.randn(2, 4, 8, 8, generator=generator(5))
    given = latents_of(pipe, [PROMPT, "x"], latents=noise)
    torch.testing.assert_close(given, latents_of(stock_pipe, [PROMPT, "x"], latents=noise, **STOCK), **CLOSE)
    drawn = torch.randn(1, 4, 8, 8, generator=generator(0))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    torch.testing.assert_close(latents_of(pipe, PROMPT, latents=drawn), latents_of(pipe, PROMPT))
    images = pipe(PROMPT, generator=generator(), output_type="pt").images
    decoded = pipe.decode_latents(latents_of(pipe, PROMPT))
    torch.testing.assert_close(images, decoded)


def test_embeddings_in_place_of_prompts(pipe):
    embeds, negative_embeds = pipe.encode_prompt(PROMPT, "cpu", 1, True, "a blue square")
    from_words = latents_of(pipe, PROMPT, negative_prompt="a blue square")
    torch.testing.assert_close(
        from_words, latents_of(pipe, prompt_embeds=embeds, negative_prompt_embeds=negative_embeds)
    )
    torch.testing.assert_close(from_words, latents_of(pipe, prompt_embeds=embeds, negative_prompt="a blue square"))


def test_clip_skip_leaves_out_the_last_layers(pipe):
    skipped, _ = pipe.encode_prompt(PROMPT, "cpu", 1, False, clip_skip=1)
    tokens = pipe.tokenizer(PROMPT, padding="max_length", return_tensors="pt").input_ids
    hidden_states = pipe.text_encoder(tokens, output_hidden_states=True).hidden_states
    torch.testing.assert_close(skipped, pipe.text_encoder.final_layer_norm(hidden_states[-2]))
    torch.testing.assert_close(
        pipe.encode_prompt(PROMPT, "cpu", 1, False, clip_skip=0), pipe.encode_prompt(PROMPT, "cpu", 1, False)
    )
    assert (latents_of(pipe, PROMPT, clip_skip=1) - latents_of(pipe, PROMPT)).abs().max() > 0.1


def test_what_is_cut_off_a_long_prompt_is_quoted(pipe, caplog):
    pipe(" ".join([PROMPT] * 5), num_inference_steps=1)
    assert "circle a red circle" in caplog.text
    caplog.clear()
    pipe(PROMPT, num_inference_steps=1)
    assert not caplog.records


def test_callback_sees_and_changes_what_it_does_in_diffusers(pipe, stock_pipe):
    def callback(pipeline, step, timestep, tensors):
        assert pipeline.num_timesteps == 3
        assert tensors["prompt_embeds"].shape == (2, MAX_LENGTH, HIDDEN_SIZE), "the negative prompt comes first"
        assert tensors["negative_prompt_embeds"].shape == (1, MAX_LENGTH, HIDDEN_SIZE)
        seen.append((step, int(timestep)))
        return {"latents": tensors["latents"] * 0.9, "prompt_embeds": tensors["prompt_embeds"].flip(1)}

    seen: list[tuple[int, int]] = []
    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    call = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": names}
    ours = latents_of(pipe, PROMPT, **call)
    ours_seen, seen = seen, []
    torch.testing.assert_close(ours, latents_of(stock_pipe, PROMPT, **STOCK, **call), **CLOSE)
    assert ours_seen == seen
    assert len(seen) == 3


def test_callback_may_return_nothing(pipe):
    watched = latents_of(pipe, PROMPT, callback_on_step_end=lambda *arguments: None)
    torch.testing.assert_close(watched, latents_of(pipe, PROMPT))


def test_callback_interrupts(pipe, stock_pipe):
    def callback(pipeline, step, timestep, tensors):
        steps.append(step)
        pipeline._interrupt = step == 1
        return tensors

    steps: list[int] = []
    ours = latents_of(pipe, PROMPT, callback_on_step_end=callback)
    assert steps == [0, 1]
    expected = latents_of(stock_pipe, PROMPT, callback_on_step_end=callback, **STOCK)
    torch.testing.assert_close(ours, expected, **CLOSE)
    assert len(steps) == 4
    latents_of(pipe, PROMPT, callback_on_step_end=lambda *arguments: steps.append(-1))
    assert steps[4:] == [-1, -1, -1], "the next call starts afresh"


def test_diffusers_own_callback_cuts_guidance_off(pipe, stock_pipe):
    ours, stock = (
        latents_of(one, PROMPT, **STOCK, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.4))
        for one in (pipe, stock_pipe)
    )
    torch.testing.assert_close(ours, stock, **CLOSE)
    assert (ours - latents_of(pipe, PROMPT)).abs().max() > 1e-3


def test_recommended_call_is_the_default(pipe):
    torch.testing.assert_close(latents_of(pipe, PROMPT), latents_of(pipe, PROMPT, **STOCK))
    assert pipe.guidance_scale == 4.0
    assert pipe.num_timesteps == 3
    latents_of(pipe, PROMPT, num_inference_steps=2)
    assert pipe.num_timesteps == 2


def test_without_a_recommendation_stocks_defaults_hold():
    pipe = SDPipeline(**tiny_components())
    assert pipe.fill_in_recommended() == {
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "guidance_rescale": 0.0,
        "eta": 0.0,
    }


def test_progress_bar_can_be_switched_off(pipe, capfd):
    pipe(PROMPT)
    assert capfd.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False)
    pipe(PROMPT)
    assert "3/3" in capfd.readouterr().err


def test_half_precision_on_disk_and_in_memory(repository, tmp_path):
    pipe = SDPipeline.from_pretrained(repository, dtype=torch.bfloat16)
    images = pipe(PROMPT, generator=generator(), output_type="pt").images
    assert images.dtype == torch.bfloat16
    assert torch.isfinite(images).all()
    pipe.save_pretrained(tmp_path / "half")
    assert {tensor.dtype for tensor in SDPipeline.from_pretrained(tmp_path / "half").text_encoder.parameters()} == {
        torch.float32
    }
    for pipeline_class in (SDPipeline, StableDiffusionPipeline):
        whole = pipeline_class.from_pretrained(tmp_path / "half")
        whole(PROMPT, num_inference_steps=1)
        half = pipeline_class.from_pretrained(tmp_path / "half", dtype=torch.bfloat16)
        assert half.text_encoder.dtype == half.unet.dtype == torch.bfloat16
        half(PROMPT, num_inference_steps=1)


def test_from_pipe_keeps_components_and_recommendation(pipe):
    again = SDPipeline.from_pipe(pipe)
    assert again.unet is pipe.unet
    assert again.config["recommended_call"] == STOCK
    torch.testing.assert_close(latents_of(again, PROMPT), latents_of(pipe, PROMPT))
    torch.testing.assert_close(latents_of(SDPipeline(**pipe.components), PROMPT, **STOCK), latents_of(pipe, PROMPT))


def test_from_pipe_to_diffusers_and_back(pipe, stock_pipe):
    ours = SDPipeline.from_pipe(stock_pipe)
    torch.testing.assert_close(latents_of(ours, PROMPT, **STOCK), latents_of(pipe, PROMPT), **CLOSE)
    stock = StableDiffusionPipeline(**pipe.components)
    torch.testing.assert_close(latents_of(stock, PROMPT, **STOCK), latents_of(pipe, PROMPT), **CLOSE)


def test_unconditional_model_in_latent_space():
    pipe = SDPipeline(unet=tiny_unconditional_unet(), vae=tiny_vae(), scheduler=tiny_scheduler())
    pipe.set_progress_bar_config(disable=True)
    images = pipe(batch_size=3, num_inference_steps=2, generator=generator()).images
    assert [image.size for image in images] == [(32, 32)] * 3
    assert len(pipe(num_images_per_prompt=2, num_inference_steps=2).images) == 2
    assert latents_of(pipe, num_inference_steps=2).shape == (1, 4, 8, 8)


def test_unconditional_latents_equal_diffusers_with_prompts_that_nobody_looks_at():
    unet, vae = tiny_unconditional_unet(), tiny_vae()
    pipe = SDPipeline(unet=unet, vae=vae, scheduler=tiny_scheduler())
    stock = StableDiffusionPipeline(**{**pipe.components, "text_encoder": None, "tokenizer": None})
    embeds = torch.zeros(1, MAX_LENGTH, HIDDEN_SIZE)
    expected = latents_of(stock, prompt_embeds=embeds, guidance_scale=1.0, num_inference_steps=3)
    torch.testing.assert_close(latents_of(pipe, num_inference_steps=3), expected)


@pytest.mark.parametrize("takes_prompts", [False, True])
def test_pixel_space(takes_prompts):
    channels = {"in_channels": 3, "out_channels": 3, "sample_size": (8, 16)}
    components = tiny_components() if takes_prompts else {}
    unet = tiny_unet(**channels) if takes_prompts else tiny_unconditional_unet(**channels)
    scheduler = SDDDPMScheduler(variance_type="fixed_large")
    pipe = SDPipeline(**{**components, "unet": unet, "vae": None, "scheduler": scheduler})
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler is scheduler, "clipping is right for pixels"
    call = {"prompt": PROMPT} if takes_prompts else {}
    image = pipe(**call, num_inference_steps=3, generator=generator()).images[0]
    assert image.size == (16, 8)
    raw = latents_of(pipe, **call, num_inference_steps=3)
    shown = pipe(**call, num_inference_steps=3, generator=generator(), output_type="pt").images
    torch.testing.assert_close((raw / 2 + 0.5).clamp(0, 1), shown)


def test_a_model_of_the_mean_equals_one_of_the_noise_that_means_the_same():
    class Mean(torch.nn.Module):
        """What a perfect epsilon model knows, told as the posterior mean of adjacent steps."""

        def __init__(self, unet, scheduler):
            super().__init__()
            self.unet, self.scheduler = unet, scheduler

        def __getattr__(self, name):
            return super().__getattr__(name) if name in ("unet",) else getattr(self.unet, name)

        def forward(self, sample, timestep, **kwargs):
            noise = self.unet(sample, timestep, **kwargs)[0]
            x_0 = self.scheduler.predict_original_sample(noise, sample, timestep)
            t = int(timestep)
            return (self.scheduler.posterior_mean_variance(x_0, sample, t, t - 1)[0],)

    unet = tiny_unconditional_unet()
    noise_pipe = SDPipeline(unet=unet, vae=tiny_vae(), scheduler=tiny_scheduler())
    mean_pipe = SDPipeline(unet=unet, vae=tiny_vae(), scheduler=tiny_scheduler(prediction_type="mean"))
    mean_pipe.unet = Mean(unet, noise_pipe.scheduler)
    expected = latents_of(noise_pipe, num_inference_steps=3)
    torch.testing.assert_close(latents_of(mean_pipe, num_inference_steps=3), expected, rtol=1e-3, atol=1e-3)
