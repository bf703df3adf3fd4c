"""The way of a call through a pipeline, which is the same for every task: check, start, denoise, decode.

A pipeline of its own adds a `__call__` that says where the loop starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from sd_pipeline.latents import scale_latents, unscale_latents
from sd_pipeline.pipelines import call_arguments
from sd_pipeline.pipelines.call import Call, Generators
from sd_pipeline.pipelines.compilation import SDCompilablePipeline
from sd_pipeline.pipelines.denoising import DenoisingInputs, denoise
from sd_pipeline.pipelines.image_inputs import one_for_each
from sd_pipeline.pipelines.pipeline_output import SDPipelineOutput
from sd_pipeline.pipelines.prompt_arguments import check_no_prompts, check_prompts
from sd_pipeline.pipelines.safety import check_safety
from sd_pipeline.pipelines.scheduler_use import set_timesteps, start_late
from sd_pipeline.pipelines.step_callbacks import CALLBACK_TENSORS, follow_callback

EditImages = Callable[[torch.Tensor], torch.Tensor]
"""What is done to decoded images of shape `(batch_size, 3, height, width)` in [0, 1] before anybody sees them."""


class SDGenerationPipeline(SDCompilablePipeline):
    """Check what is asked, noise and images to latents, the loop, latents to images."""

    _callback_tensor_inputs = CALLBACK_TENSORS

    def check_call(self, call: Call) -> Call:
        """Check what all tasks are asked alike, before anything is done, and begin.

        Args:
            call (`Call`): As it was made.

        Returns:
            `Call`: With the recommended numbers filled in and the prompts counted.

        Raises:
            ValueError: If an argument is impossible, or does not go with another or with the model.
        """
        self.check_components()
        names = ("num_inference_steps", "guidance_scale", "guidance_rescale", "eta")
        numbers = self.fill_in_recommended(**{name: getattr(call, name) for name in names})
        self._guidance_scale, self._interrupt = numbers["guidance_scale"], False
        num_prompts = self.count_prompts(call)
        call_arguments.check_count("num_images_per_prompt", call.num_images_per_prompt)
        call = replace(call, num_prompts=num_prompts, device=self._execution_device, **numbers)
        num_layers = self.text_encoder and self.text_encoder.config.num_hidden_layers
        call_arguments.check_clip_skip(call.clip_skip, num_layers)
        call_arguments.check_generator(call.generator, call.num_images)
        if isinstance(call.generator, tuple):
            call = replace(call, generator=list(call.generator))
        callback = call.callback_on_step_end
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            call = replace(call, callback_on_step_end_tensor_inputs=callback.tensor_inputs)
        call_arguments.check_options(
            call.output_type,
            call.cross_attention_kwargs,
            callback,
            call.callback_on_step_end_tensor_inputs,
            CALLBACK_TENSORS,
        )
        return call

    def count_prompts(self, call: Call) -> int:
        """Check that prompts suit each other and the model, and count them.

        Args:
            call (`Call`): As it was made.

        Returns:
            `int`: How many prompts there are, or how many images of an unconditional model.

        Raises:
            ValueError: If they do not.
        """
        names = ("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds")
        prompts = {name: getattr(call, name) for name in names}
        if not self.takes_prompts:
            return check_no_prompts(call.batch_size, **prompts)
        is_given = call.batch_size is not None
        call_arguments.require(
            not is_given, "batch_size", call.batch_size, "left out: this model makes an image for each prompt"
        )
        return check_prompts(
            **prompts,
            has_text_encoder=self.has_text_encoder,
            cross_attention_dim=self.unet.config.cross_attention_dim,
            is_guided=self._guidance_scale > 1,
        )

    def draw_noise(self, call: Call, shape: Sequence[int], latents: torch.Tensor | None = None) -> torch.Tensor:
        """Draw standard normal noise, unless it is given.

        Args:
            call (`Call`): Checked.
            shape (sequence of `int`): `(batch_size, num_channels, height, width)`.
            latents (`torch.Tensor` of that shape, *optional*): The noise, taken as it is.

        Returns:
            `torch.Tensor` of that shape and of the U-Net's dtype.
        """
        dtype = self.unet.dtype
        if latents is None:
            latents = randn_tensor(tuple(shape), generator=call.generator, device=call.device, dtype=dtype)
        return latents.to(call.device, dtype)

    def encode_images(
        self, pixel_values: torch.Tensor, generator: Generators = None, device: torch.device | None = None
    ) -> torch.Tensor:
        """Turn images into latents, each a sample of its posterior.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): In [-1, 1], floating point; both
                sides are multiples of `vae_scale_factor`.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): One, or one for each image.
            device (`torch.device`, *optional*): Where the models compute; by default the pipeline finds out.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_channels, height / factor, width / factor)`, of the U-Net's
            dtype: x_0. Without an autoencoder these are the images themselves.
        """
        device, dtype = device or self._execution_device, self.unet.dtype
        if self.vae is None:
            return pixel_values.to(device, dtype)
        pixel_values = pixel_values.to(device, self.vae.dtype)
        if isinstance(generator, (list, tuple)):
            samples = [
                self.vae.encode(image[None]).latent_dist.sample(one)
                for image, one in zip(pixel_values, generator, strict=True)
            ]
            raw_latents = torch.cat(samples)
        else:
            raw_latents = self.vae.encode(pixel_values).latent_dist.sample(generator)
        return scale_latents(raw_latents, self.vae.config).to(dtype)

    def encode_for_call(self, call: Call, pixel_values: torch.Tensor) -> torch.Tensor:
        """Turn the images of a call into latents, one for each image that it makes.

        Args:
            call (`Call`): Checked.
            pixel_values (`torch.Tensor` of shape `(num_given, 3, height, width)`): As in `encode_images`; one for all
                prompts, or one for each.

        Returns:
            `torch.Tensor` of shape `(num_images, num_channels, height / factor, width / factor)`, of the U-Net's
            dtype.
        """
        numbers = (call.num_prompts, call.num_images_per_prompt)
        if isinstance(call.generator, (list, tuple)):
            return self.encode_images(one_for_each(pixel_values, *numbers, "image"), call.generator, call.device)
        # As in diffusers, one generator draws one sample of a posterior, however many images start from it.
        return one_for_each(self.encode_images(pixel_values, call.generator, call.device), *numbers, "image")

    def take_timesteps(self, call: Call, strength: float | None = None) -> torch.Tensor:
        """Set the scheduler's timesteps.

        Args:
            call (`Call`): Checked.
            strength (`float`, *optional*): Share of the steps to take, in [0, 1]: the last ones.

        Returns:
            `torch.Tensor` of shape `(num_timesteps,)`: those to take.

        Raises:
            ValueError: If the scheduler refuses them.
        """
        num_steps = call.num_inference_steps or 0
        timesteps = set_timesteps(self.scheduler, num_steps, call.timesteps, call.sigmas, call.device)
        if strength is not None:
            is_custom = call.timesteps is not None or call.sigmas is not None
            timesteps = start_late(self.scheduler, len(timesteps) if is_custom else num_steps, strength)
        self._num_timesteps = len(timesteps)
        return timesteps

    def run(self, call: Call, latents: torch.Tensor, timesteps: torch.Tensor, **start: Any) -> torch.Tensor:
        """Embed the prompts and denoise.

        Args:
            call (`Call`): Checked.
            latents (`torch.Tensor` of shape `(num_images, num_channels, height, width)`): Where the loop starts.
            timesteps (`torch.Tensor` of shape `(num_timesteps,)`): Of `take_timesteps`.
            start (`Any`): What else the task gives to `DenoisingInputs`.

        Returns:
            `torch.Tensor` of the shape and dtype of `latents`: x_0.
        """
        hidden_states, negative_embeds = None, None
        if self.takes_prompts:
            embeds, negative_embeds = self.encode_prompt(
                call.prompt,
                call.device,
                call.num_images_per_prompt,
                self.do_classifier_free_guidance,
                call.negative_prompt,
                call.prompt_embeds,
                call.negative_prompt_embeds,
                (call.cross_attention_kwargs or {}).get("scale"),
                call.clip_skip,
            )
            hidden_states = embeds if negative_embeds is None else torch.cat([negative_embeds, embeds])
        inputs = DenoisingInputs(
            latents=latents,
            timesteps=timesteps,
            encoder_hidden_states=hidden_states,
            **{name: getattr(call, name) for name in ("guidance_scale", "guidance_rescale", "eta")},
            generator=call.generator,
            cross_attention_kwargs=call.cross_attention_kwargs,
            **start,
        )
        names = call.callback_on_step_end_tensor_inputs
        after_step = follow_callback(self, call.callback_on_step_end, names, negative_embeds)
        return denoise(self.unet, self.scheduler, inputs, after_step, self.progress_bar)

    def finish(self, call: Call, latents: torch.Tensor, edit: EditImages | None = None) -> SDPipelineOutput | tuple:
        """Decode, and end the call.

        Args:
            call (`Call`): Checked.
            latents (`torch.Tensor` of shape `(num_images, num_channels, height, width)`): x_0.
            edit (`EditImages`, *optional*): What is done to the images.

        Returns:
            [`SDPipelineOutput`], or a tuple of its fields.

        Raises:
            FloatingPointError: If the latents are not finite: the weights are damaged or overflow in their dtype.
        """
        is_unsafe = None
        if call.output_type == "latent":
            images: Any = latents
            _check_finite(latents)
        else:
            pixels = self.decode_latents(latents, call.generator)
            pixels = pixels if edit is None else edit(pixels)
            if self.safety_checker is not None:
                pixels, is_unsafe = check_safety(pixels, self.safety_checker, self.feature_extractor)
            images = as_output_type(pixels, call.output_type)
        self.maybe_free_model_hooks()
        return SDPipelineOutput(images, is_unsafe) if call.return_dict else (images, is_unsafe)

    def decode_latents(self, latents: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        """Turn latents into images.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): x_0, as the loop leaves it.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): For autoencoders that draw noise.

        Returns:
            `torch.Tensor` of shape `(batch_size, 3, height * factor, width * factor)`, in [0, 1].

        Raises:
            FloatingPointError: If the latents are not finite: the weights are damaged or overflow in their dtype.
        """
        _check_finite(latents)
        if self.vae is not None:
            raw_latents = unscale_latents(latents, self.vae.config).to(self.vae.dtype)
            latents = self.vae.decode(raw_latents, return_dict=False, generator=generator)[0]
        pixels: torch.Tensor = VaeImageProcessor.denormalize(latents)
        return pixels


def as_output_type(pixels: torch.Tensor, output_type: str) -> list[Image.Image] | Any:
    """Hand images over in the form that was asked for.

    Args:
        pixels (`torch.Tensor` of shape `(batch_size, channels, height, width)`): In [0, 1].
        output_type (`str`): `"pil"`, `"np"` or `"pt"`.

    Returns:
        As `SDPipelineOutput.images`.
    """
    if output_type == "pt":
        return pixels
    arrays = VaeImageProcessor.pt_to_numpy(pixels)
    return arrays if output_type == "np" else VaeImageProcessor.numpy_to_pil(arrays)


def _check_finite(latents: torch.Tensor) -> None:
    if not torch.isfinite(latents).all():
        raise FloatingPointError(
            f"the U-Net produced values that are not finite in {latents.dtype}; its weights are damaged, or the "
            "precision is too low"
        )
