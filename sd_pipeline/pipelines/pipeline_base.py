"""What all diffusion pipelines of this package share: their components, and both ends of the loop.

A pipeline of its own adds a `__call__` that builds `DenoisingInputs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from sd_pipeline.latents import unscale_latents
from sd_pipeline.models.autoencoder_kl import SDAutoencoderKL
from sd_pipeline.models.unet_2d_condition import SDUNet2DConditionModel
from sd_pipeline.pipelines import call_arguments
from sd_pipeline.pipelines.call_arguments import STOCK_CALL, require
from sd_pipeline.pipelines.loading import StockRepositoryPipeline
from sd_pipeline.pipelines.prompt_arguments import check_no_prompts, check_prompts
from sd_pipeline.pipelines.prompt_encoding import encode_prompts, repeat_per_prompt
from sd_pipeline.pipelines.scheduler_use import Scheduler, check_prediction_type, fit_for_latents


class SDBasePipeline(StockRepositoryPipeline):
    """Components, what a call may ask of them, prompts to embeddings, noise to latents, latents to images.

    Args:
        unet ([`SDUNet2DConditionModel`]): Predicts the noise (or what the scheduler's `prediction_type` says).
        scheduler ([`SDDDPMScheduler`] or any scheduler of diffusers): Takes the steps.
        vae ([`SDAutoencoderKL`], *optional*): Between images and latents. Without it the U-Net works on pixels.
        text_encoder ([`~transformers.CLIPTextModel`], *optional*): Embeds prompts. Without it there are none.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Splits prompts into tokens.
        recommended_call (`dict[str, int | float]`, *optional*): `num_inference_steps`, `guidance_scale`,
            `guidance_rescale` or `eta` with which the model is at its best: the defaults of a call.

    Raises:
        ValueError: If components do not fit together, or the recommended call is impossible.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"  # type: ignore[assignment]
    _optional_components = ["vae", "text_encoder", "tokenizer"]  # noqa: RUF012 (read by diffusers)

    def __init__(
        self,
        *,
        unet: SDUNet2DConditionModel | UNet2DConditionModel,
        scheduler: Scheduler,
        vae: SDAutoencoderKL | AutoencoderKL | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        recommended_call: dict | None = None,
    ) -> None:
        super().__init__()
        call_arguments.check_recommended_call(recommended_call or {})
        require(
            unet.config["time_cond_proj_dim"] is None,
            "unet.config.time_cond_proj_dim",
            unet.config["time_cond_proj_dim"],
            "null: U-Nets that take the guidance scale as an input cannot be used here",
        )
        if vae is not None:
            scheduler = fit_for_latents(scheduler)
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.register_to_config(recommended_call=dict(recommended_call or {}))
        self.vae_scale_factor = 1 if vae is None else 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the call. A callback may change it, as `_guidance_scale`, on the way."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the U-Net is asked about the negative prompt too."""
        return self._guidance_scale > 1 and self.takes_prompts

    @property
    def num_timesteps(self) -> int:
        """How many timesteps the call takes."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the call is to stop after the step that it is at. A callback may set it, as `_interrupt`."""
        return self._interrupt

    @property
    def has_text_encoder(self) -> bool:
        """Whether prompts can be given as text."""
        return self.text_encoder is not None and self.tokenizer is not None

    @property
    def takes_prompts(self) -> bool:
        """Whether the U-Net looks at embeddings of prompts."""
        config = self.unet.config
        blocks = (*config.down_block_types, config.mid_block_type, *config.up_block_types)
        return any("CrossAttn" in (block or "") for block in blocks)

    def fill_in_recommended(self, **given: int | float | None) -> dict[str, Any]:
        """Complete the numbers of a call: what is given, else what the model recommends, else what diffusers takes.

        Args:
            given (`int` or `float`, *optional*): The keys of `recommended_call`.

        Returns:
            `dict[str, Any]`: All of them.

        Raises:
            ValueError: If one is impossible.
        """
        numbers = {**STOCK_CALL, **self.config["recommended_call"]}
        numbers.update((name, value) for name, value in given.items() if value is not None)
        call_arguments.check_numbers(**numbers)
        return numbers

    def latents_shape(self, num_images: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        """Work out the shape of the latents.

        Args:
            num_images (`int`): At least 1.
            height (`int`, *optional*): Of the images in pixels; by default that of the training images.
            width (`int`, *optional*): Likewise.

        Returns:
            `tuple[int, int, int, int]`: `(num_images, num_channels, height / factor, width / factor)`.

        Raises:
            ValueError: If height or width is no multiple of what becomes one latent, or nobody knows it.
        """
        size, factor = self.unet.config.sample_size, self.vae_scale_factor
        sides = size if isinstance(size, (list, tuple)) else (size, size)
        trained = [side and side * factor for side in sides]
        height, width = (trained[0] if height is None else height), (trained[1] if width is None else width)
        call_arguments.check_image_size(height, width, factor)
        return num_images, self.unet.config.in_channels, height // factor, width // factor

    def count_prompts(
        self,
        batch_size: int | None,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
    ) -> int:
        """Check that prompts suit each other and the model, and count them.

        Args:
            batch_size (`int`, *optional*): Number of images of an unconditional model.
            prompt (`str` or `list[str]`, *optional*): As in a call; the others likewise.
            negative_prompt (`str` or `list[str]`, *optional*): As in a call.
            prompt_embeds (`torch.Tensor`, *optional*): As in a call.
            negative_prompt_embeds (`torch.Tensor`, *optional*): As in a call.

        Returns:
            `int`: How many prompts there are, or how many images of an unconditional model.

        Raises:
            ValueError: If they do not.
        """
        if not self.takes_prompts:
            return check_no_prompts(
                batch_size,
                prompt=prompt,
                negative_prompt=negative_prompt,
                prompt_embeds=prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds,
            )
        require(batch_size is None, "batch_size", batch_size, "left out: this model makes an image for each prompt")
        return check_prompts(
            prompt,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            has_text_encoder=self.has_text_encoder,
            cross_attention_dim=self.unet.config.cross_attention_dim,
            is_guided=self._guidance_scale > 1,
        )

    def check_components(self) -> None:
        """Check that the components, which can be exchanged, still suit each other.

        Raises:
            ValueError: If the scheduler cannot use what the U-Net predicts, or the U-Net not what it is given.
        """
        check_prediction_type(self.scheduler)
        if self.vae is not None and self.unet.config.in_channels != self.vae.config.latent_channels:
            raise ValueError(
                f"`unet` takes {self.unet.config.in_channels} channels, but `vae` makes "
                f"{self.vae.config.latent_channels}: this is no text-to-image model"
            )

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: torch.device | str,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        clip_skip: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed prompts and, with guidance, negative prompts.

        Args:
            prompt (`str` or `list[str]`, *optional*): One or several.
            device (`torch.device`): Where to.
            num_images_per_prompt (`int`): How often each embedding is repeated.
            do_classifier_free_guidance (`bool`): Whether negative prompts are wanted.
            negative_prompt (`str` or `list[str]`, *optional*): By default empty.
            prompt_embeds (`torch.Tensor` of shape `(num_prompts, length, cross_attention_dim)`, *optional*):
                In place of `prompt`.
            negative_prompt_embeds (`torch.Tensor`, *optional*): In place of `negative_prompt`, of the same shape.
            clip_skip (`int`, *optional*): Layers of the text encoder to leave out for `prompt`.

        Returns:
            Two `torch.Tensor` of shape `(num_prompts * num_images_per_prompt, length, cross_attention_dim)`, of the
            U-Net's dtype. The second, for negative prompts, is `None` without guidance.

        Raises:
            ValueError: If the shapes of embeddings differ.
        """
        if prompt_embeds is None:
            prompts = [prompt] if isinstance(prompt, str) else list(prompt or [])
            prompt_embeds = encode_prompts(prompts, self.tokenizer, self.text_encoder, device, clip_skip=clip_skip)
        num_prompts, length, _ = prompt_embeds.shape
        if do_classifier_free_guidance and negative_prompt_embeds is None:
            if not isinstance(negative_prompt, list):
                negative_prompt = [negative_prompt or ""] * num_prompts
            negative_prompt_embeds = encode_prompts(
                negative_prompt, self.tokenizer, self.text_encoder, device, max_length=length
            )
        placed = {"device": device, "dtype": self.unet.dtype}
        prompt_embeds = repeat_per_prompt(prompt_embeds.to(**placed), num_images_per_prompt)
        if not do_classifier_free_guidance or negative_prompt_embeds is None:
            return prompt_embeds, None
        negative_prompt_embeds = repeat_per_prompt(negative_prompt_embeds.to(**placed), num_images_per_prompt)
        negative_shape, shape = tuple(negative_prompt_embeds.shape), tuple(prompt_embeds.shape)
        require(negative_shape == shape, "negative_prompt_embeds", f"of shape {negative_shape}", f"of shape {shape}")
        return prompt_embeds, negative_prompt_embeds

    def prepare_latents(
        self,
        shape: Sequence[int],
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw the noise to start from, unless it is given, at the magnitude that the scheduler starts at.

        Args:
            shape (sequence of `int`): `(batch_size, num_channels, height, width)` of the latents.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): One, or one for each image.
            latents (`torch.Tensor` of that shape, *optional*): Standard normal noise, taken as it is.

        Returns:
            `torch.Tensor` of that shape and of the U-Net's dtype.
        """
        device, dtype = self._execution_device, self.unet.dtype
        if latents is None:
            latents = randn_tensor(tuple(shape), generator=generator, device=device, dtype=dtype)
        return latents.to(device, dtype) * self.scheduler.init_noise_sigma

    def decode_latents(
        self, latents: torch.Tensor, output_type: str, generator: torch.Generator | list[torch.Generator] | None = None
    ) -> list[Image.Image] | Any:
        """Turn latents into images.

        Args:
            latents (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): x_0, as the loop leaves it.
            output_type (`str`): `"pil"`, `"np"`, `"pt"`, or `"latent"`, which leaves them as they are.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): For autoencoders that draw noise.

        Returns:
            As `SDPipelineOutput.images`.

        Raises:
            FloatingPointError: If the latents are not finite: the weights are damaged or overflow in their dtype.
        """
        if not torch.isfinite(latents).all():
            raise FloatingPointError(
                f"the U-Net produced values that are not finite in {latents.dtype}; its weights are damaged, or the "
                "precision is too low"
            )
        if output_type == "latent":
            return latents
        if self.vae is not None:
            raw_latents = unscale_latents(latents, self.vae.config).to(self.vae.dtype)
            latents = self.vae.decode(raw_latents, return_dict=False, generator=generator)[0]
        return self.image_processor.postprocess(latents, output_type, do_denormalize=[True] * len(latents))
