"""Text to image."""

from __future__ import annotations

from typing import Any

import torch

from sd_pipeline.pipelines.call import Call, Callback
from sd_pipeline.pipelines.call_arguments import check_tensor
from sd_pipeline.pipelines.generation_pipeline import SDGenerationPipeline
from sd_pipeline.pipelines.pipeline_output import SDPipelineOutput


class SDPipeline(SDGenerationPipeline):
    """Generate images from prompts, or from nothing where the model is unconditional.

    It loads any Stable Diffusion 1.x or 2.x repository, and behaves as `StableDiffusionPipeline` of diffusers: same
    arguments, and the same images for the same weights, scheduler and generator.

    Args:
        unet ([`SDUNet2DConditionModel`]): Predicts the noise (or what the scheduler's `prediction_type` says).
        scheduler ([`SDDDPMScheduler`] or any scheduler of diffusers): Takes the steps.
        vae ([`SDAutoencoderKL`], *optional*): Between images and latents. Without it the U-Net works on pixels.
        text_encoder ([`~transformers.CLIPTextModel`], *optional*): Embeds prompts. Without it there are none.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Splits prompts into tokens.
        safety_checker (`StableDiffusionSafetyChecker`, *optional*): Blackens images that it finds unsafe.
        feature_extractor ([`~transformers.CLIPImageProcessor`], *optional*): Prepares images for it.
        recommended_call (`dict[str, int | float]`, *optional*): `num_inference_steps`, `guidance_scale`,
            `guidance_rescale` or `eta` with which the model is at its best: the defaults of a call.

    Raises:
        ValueError: If components do not fit together, or the recommended call is impossible.

    Example:
        ```python
        >>> from sd_pipeline import SDDDPMScheduler, SDPipeline, SDUNet2DConditionModel
        >>> unet = SDUNet2DConditionModel(
        ...     sample_size=8,
        ...     in_channels=3,
        ...     out_channels=3,
        ...     block_out_channels=(16, 32),
        ...     down_block_types=("DownBlock2D", "DownBlock2D"),
        ...     mid_block_type=None,
        ...     up_block_types=("UpBlock2D", "UpBlock2D"),
        ...     norm_num_groups=8,
        ... )
        >>> pipe = SDPipeline(unet=unet, scheduler=SDDDPMScheduler())
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(batch_size=2, num_inference_steps=2).images[0].size
        (8, 8)

        ```
    """

    __module__ = "sd_pipeline"

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        *,
        batch_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guidance_rescale: float | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: Callback = None,
        callback_on_step_end_tensor_inputs: list[str] | tuple[str, ...] = ("latents",),
    ) -> SDPipelineOutput | tuple:
        """Generate images.

        Args:
            prompt (`str` or `list[str]`, *optional*): What the images shall show.
            height (`int`, *optional*): In pixels, a multiple of the side of a latent; by default as in training.
            width (`int`, *optional*): Likewise.
            num_inference_steps (`int`, *optional*): Steps from noise to image; by default as the model recommends,
                or 50.
            timesteps (`list[int]`, *optional*): The timesteps themselves, falling, for schedulers that take them.
            sigmas (`list[float]`, *optional*): Noise levels instead, for schedulers that take them.
            guidance_scale (`float`, *optional*): How strongly to follow the prompt; up to 1 there is no guidance. By
                default as the model recommends, or 7.5.
            negative_prompt (`str` or `list[str]`, *optional*): What to stay away from, with guidance; one for all
                prompts or one for each.
            num_images_per_prompt (`int`, *optional*, defaults to 1): Images of a prompt, side by side in the result.
            eta (`float`, *optional*): Noise that DDIM adds, from 0 to DDPM's at 1. By default as recommended, or 0.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of all noise; a list has one
                for each image, which then does not depend on the batch that it is made in.
            latents (`torch.Tensor` of shape `(num_images, num_channels, height / factor, width / factor)`):
                Standard normal noise to start from, floating point; drawn by default.
            prompt_embeds (`torch.Tensor` of shape `(num_prompts, length, cross_attention_dim)`, *optional*):
                Embeddings in place of `prompt`, floating point.
            negative_prompt_embeds (`torch.Tensor`, *optional*): In place of `negative_prompt`, of the same shape.
            batch_size (`int`, *optional*): Number of images of an unconditional model, 1 by default.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return an object, or else a tuple.
            cross_attention_kwargs (`dict[str, Any]`, *optional*): Passed to the attention processors of the U-Net.
            guidance_rescale (`float`, *optional*): How much of the contrast that guidance adds to take back, from 0
                to 1. By default as recommended, or 0.
            clip_skip (`int`, *optional*): How many of the text encoder's last layers to leave out.
            callback_on_step_end (callable, *optional*): Called as `callback(pipe, step, timestep, tensors)` after each
                step; the tensors that it returns in a `dict` replace those of the loop. With guidance `prompt_embeds`
                has the negative prompts' first. Setting `pipe._interrupt` ends the loop.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `("latents",)`): Which of
                `"latents"`, `"prompt_embeds"` and `"negative_prompt_embeds"` the callback gets.

        Returns:
            [`SDPipelineOutput`] with `images`, or `(images, None)`.

        Raises:
            ValueError: If an argument is impossible, or does not go with another or with the model. Nothing has been
                done then.
            FloatingPointError: If the model produced values that are not finite.
        """
        call = self.check_call(Call.from_arguments(locals()))
        shape = self.latents_shape(call.num_images, height, width)
        if latents is not None:
            check_tensor("latents", latents, shape)

        timesteps_to_take = self.take_timesteps(call)
        noise = self.draw_noise(call, shape, latents)
        latents = self.run(call, noise * self.scheduler.init_noise_sigma, timesteps_to_take)
        return self.finish(call, latents)
