"""Every impossible argument is one line that names it, before the model has done anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, UNet2DConditionModel

from sd_pipeline import SDPipeline
from tests.components import (
    HIDDEN_SIZE,
    MAX_LENGTH,
    tiny_components,
    tiny_scheduler,
    tiny_unconditional_unet,
    tiny_unet,
)

PROMPT = "a red circle"
NOISE = torch.zeros(1, 4, 8, 8)
EMBEDS = torch.zeros(1, MAX_LENGTH, HIDDEN_SIZE)


@pytest.fixture(scope="module")
def text_to_image() -> SDPipeline:
    return guarded(SDPipeline(**tiny_components()))


@pytest.fixture(scope="module")
def without_text_encoder(text_to_image) -> SDPipeline:
    return guarded(SDPipeline(**{**text_to_image.components, "text_encoder": None, "tokenizer": None}))


@pytest.fixture(scope="module")
def unconditional() -> SDPipeline:
    return guarded(SDPipeline(unet=tiny_unconditional_unet(), scheduler=tiny_scheduler()))


def guarded(pipe: SDPipeline) -> SDPipeline:
    def refuse(*arguments):
        raise AssertionError("the model has been run")

    coders = () if pipe.vae is None else (pipe.vae.encoder, pipe.vae.decoder)
    for model in (pipe.unet, pipe.text_encoder, *coders):
        if model is not None:
            model.register_forward_pre_hook(refuse)
    return pipe


def check(pipe, call, message):
    with pytest.raises(ValueError, match=message) as raised:
        pipe(**call)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "neither prompt nor embeddings are given; give `prompt` or `prompt_embeds`"),
        ({"prompt": 7}, "`prompt` is 7; it must be a string, or a list"),
        ({"prompt": []}, r"`prompt` is \[\]"),
        ({"prompt": [PROMPT, 7]}, "`prompt` is"),
        ({"prompt": PROMPT, "prompt_embeds": EMBEDS}, "`prompt` and `prompt_embeds` are both given"),
        ({"prompt": PROMPT, "negative_prompt": "x", "negative_prompt_embeds": EMBEDS}, "`negative_prompt` and"),
        ({"prompt": PROMPT, "negative_prompt": 7}, "`negative_prompt` is 7"),
        ({"prompt": PROMPT, "negative_prompt": ["a", "b"]}, "`negative_prompt` is .* a list of 1"),
        ({"prompt": [PROMPT] * 3, "negative_prompt": ["a", "b"]}, "`negative_prompt` is .* a list of 3"),
        ({"prompt_embeds": EMBEDS, "negative_prompt": ["a", "b"]}, "`negative_prompt` is .* a list of 1"),
        ({"prompt_embeds": EMBEDS[0]}, r"`prompt_embeds` is .*\(16, 32\).* \(any, any, 32\)"),
        ({"prompt_embeds": EMBEDS[..., 1:]}, r"`prompt_embeds` is .*\(1, 16, 31\)"),
        ({"prompt_embeds": EMBEDS.int()}, "`prompt_embeds` is .* floating-point"),
        ({"prompt_embeds": EMBEDS / 0}, "`prompt_embeds` is 'not finite"),
        ({"prompt_embeds": [[1.0]]}, "`prompt_embeds` is"),
        ({"prompt_embeds": EMBEDS, "negative_prompt_embeds": EMBEDS[:, 1:]}, "`negative_prompt_embeds` is 'of shape"),
        ({"prompt": PROMPT, "batch_size": 2}, "`batch_size` is 2; it must be left out"),
        ({"prompt": PROMPT, "height": 30}, "`height` is 30; it must be a positive multiple of 4"),
        ({"prompt": PROMPT, "width": 0}, "`width` is 0"),
        ({"prompt": PROMPT, "width": -32}, "`width` is -32"),
        ({"prompt": PROMPT, "width": 32.0}, "`width` is 32.0"),
        ({"prompt": PROMPT, "height": "32"}, "`height` is '32'"),
        ({"prompt": PROMPT, "num_inference_steps": 0}, "`num_inference_steps` is 0; .* at least 1"),
        ({"prompt": PROMPT, "num_inference_steps": 2.5}, "`num_inference_steps` is 2.5"),
        ({"prompt": PROMPT, "num_inference_steps": True}, "`num_inference_steps` is True"),
        ({"prompt": PROMPT, "num_inference_steps": 1001}, "1001"),
        ({"prompt": PROMPT, "num_images_per_prompt": 0}, "`num_images_per_prompt` is 0"),
        ({"prompt": PROMPT, "guidance_scale": float("nan")}, "`guidance_scale` is nan"),
        ({"prompt": PROMPT, "guidance_scale": "high"}, "`guidance_scale` is 'high'"),
        ({"prompt": PROMPT, "guidance_rescale": 1.5}, "`guidance_rescale` is 1.5; it must be a number from 0 to 1"),
        ({"prompt": PROMPT, "guidance_rescale": -0.1}, "`guidance_rescale` is -0.1"),
        ({"prompt": PROMPT, "eta": 2}, "`eta` is 2"),
        ({"prompt": PROMPT, "clip_skip": -1}, "`clip_skip` is -1; it must be an integer from 0 to 3"),
        ({"prompt": PROMPT, "clip_skip": 4}, "`clip_skip` is 4"),
        ({"prompt": PROMPT, "generator": [torch.Generator()] * 2}, "`generator` is 'a list of 2'; .* a list of 1"),
        ({"prompt": PROMPT, "generator": 7}, "`generator` is 7"),
        ({"prompt": PROMPT, "generator": [7]}, r"`generator` is \[7\]"),
        ({"prompt": PROMPT, "latents": NOISE / 0}, "`latents` is 'not finite"),
        ({"prompt": PROMPT, "latents": NOISE[..., 1:]}, r"`latents` is .*\(1, 4, 8, 7\).* \(1, 4, 8, 8\)"),
        ({"prompt": [PROMPT] * 2, "latents": NOISE}, r"`latents` is .*\(2, 4, 8, 8\)"),
        ({"prompt": PROMPT, "latents": np.zeros((1, 4, 8, 8))}, "`latents` is ndarray"),
        ({"prompt": PROMPT, "output_type": "jpeg"}, "`output_type` is 'jpeg'; it must be one of pil, np, pt, latent"),
        ({"prompt": PROMPT, "callback_on_step_end": 7}, "`callback_on_step_end` is 7"),
        ({"prompt": PROMPT, "cross_attention_kwargs": 7}, "`cross_attention_kwargs` is 7"),
        ({"prompt": PROMPT, "callback_on_step_end_tensor_inputs": ["noise"]}, r"`callback_.*` is \['noise'\]"),
        ({"prompt": PROMPT, "callback_on_step_end_tensor_inputs": "latents"}, "`callback_.*` is 'latents'"),
        ({"prompt": PROMPT, "timesteps": [900, 100], "sigmas": [1.0, 0.1]}, "both given"),
        ({"prompt": PROMPT, "sigmas": [1.0, 0.1]}, "SDDDPMScheduler does not take custom sigmas"),
        ({"prompt": PROMPT, "timesteps": [100, 900]}, "timesteps"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_text_to_image(text_to_image, call, message):
    check(text_to_image, call, message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompt": PROMPT}, "`prompt` is given, but this model has no text encoder; give `prompt_embeds`"),
        ({"prompt_embeds": EMBEDS, "negative_prompt": "x"}, "`negative_prompt` is given, but .* no text encoder"),
        ({}, "give `prompt_embeds`: the model has no text encoder"),
        ({"prompt_embeds": EMBEDS}, "guidance needs `negative_prompt_embeds`"),
        ({"prompt_embeds": EMBEDS, "guidance_scale": 1, "clip_skip": 1}, "`clip_skip` is 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_without_text_encoder(without_text_encoder, call, message):
    check(without_text_encoder, call, message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompt": PROMPT}, "`prompt` is given, but this model is unconditional"),
        ({"negative_prompt": PROMPT}, "`negative_prompt` is given, but this model is unconditional"),
        ({"prompt_embeds": EMBEDS}, "`prompt_embeds` is given, but this model is unconditional"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"batch_size": "4"}, "`batch_size` is '4'"),
        ({"height": 7}, "`height` is 7; it must be a positive multiple of 2"),
        ({"clip_skip": 1}, "`clip_skip` is 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_unconditional(unconditional, call, message):
    check(unconditional, call, message)


def test_size_that_nobody_knows():
    pipe = SDPipeline(unet=tiny_unconditional_unet(sample_size=None), scheduler=tiny_scheduler())
    check(pipe, {}, "`height` is None")


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, PNDMScheduler])
def test_schedulers_of_diffusers_cannot_use_the_mean(scheduler_class):
    pipe = SDPipeline(**{**tiny_components(), "scheduler": tiny_scheduler(prediction_type="mean")})
    pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config)
    check(pipe, {"prompt": PROMPT}, f"`scheduler` is a {scheduler_class.__name__}.*only SDDDPMScheduler")


def test_unet_that_takes_other_channels_than_the_autoencoder_makes():
    pipe = SDPipeline(**{**tiny_components(), "unet": tiny_unet(in_channels=9)})
    check(pipe, {"prompt": PROMPT}, "`unet` takes 9 channels: it was trained to inpaint")


def test_unet_that_takes_the_guidance_scale_as_an_input():
    unet = UNet2DConditionModel(**{**dict(tiny_unet().config), "time_cond_proj_dim": 8})
    with pytest.raises(ValueError, match=r"time_cond_proj_dim` is 8"):
        SDPipeline(**{**tiny_components(), "unet": unet})


@pytest.mark.parametrize(
    ("recommended_call", "message"),
    [
        ({"num_inference_steps": 0}, "`num_inference_steps` is 0"),
        ({"guidance_scale": "high"}, "`guidance_scale` is 'high'"),
        ({"guidance_rescale": 2}, "`guidance_rescale` is 2"),
        ({"steps": 20}, r"`recommended_call` is \['steps'\]; it must be made of num_inference_steps"),
        ([1], r"`recommended_call` is \[1\]"),
    ],
)
def test_recommended_call(recommended_call, message):
    with pytest.raises(ValueError, match=message):
        SDPipeline(**tiny_components(), recommended_call=recommended_call)


def test_weights_that_are_not_finite_are_an_error_and_no_black_picture():
    pipe = SDPipeline(unet=tiny_unconditional_unet(), scheduler=tiny_scheduler())
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        pipe(num_inference_steps=1)
