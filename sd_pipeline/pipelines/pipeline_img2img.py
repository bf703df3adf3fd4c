"""Image to image."""

from __future__ import annotations

from typing import Any

import torch

from sd_pipeline.pipelines.call import Call, Callback
from sd_pipeline.pipelines.call_arguments import check_strength
from sd_pipeline.pipelines.generation_pipeline import SDGenerationPipeline
from sd_pipeline.pipelines.image_inputs import check_number, pad_to_multiple, read_images
from sd_pipeline.pipelines.pipeline_output import SDPipelineOutput


class SDImg2ImgPipeline(SDGenerationPipeline):
    """Change images towards prompts: the loop starts from an image with noise instead of from noise.

    It behaves as `StableDiffusionImg2ImgPipeline` of diffusers: same arguments, same images. Beyond that, images of
    any size and mode are taken, and the result has the size of the image.

    Args:
        unet ([`SDUNet2DConditionModel`]): As in [`SDPipeline`], like all others.
        scheduler ([`SDDDPMScheduler`] or any scheduler of diffusers): Takes the steps.
        vae ([`SDAutoencoderKL`], *optional*): Between images and latents.
        text_encoder ([`~transformers.CLIPTextModel`], *optional*): Embeds prompts.
        tokenizer ([`~transformers.CLIPTokenizer`], *optional*): Splits prompts into tokens.
        safety_checker (`StableDiffusionSafetyChecker`, *optional*): Blackens images that it finds unsafe.
        feature_extractor ([`~transformers.CLIPImageProcessor`], *optional*): Prepares images for it.
        recommended_call (`dict[str, int | float]`, *optional*): Defaults of a call.

    Raises:
        ValueError: If components do not fit together, or the recommended call is impossible.

    Example:
        ```python
        >>> from PIL import Image
        >>> from sd_pipeline import SDImg2ImgPipeline
        >>> pipe = SDImg2ImgPipeline.from_pretrained("pretrained/shapes-64")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> picture = Image.new("RGB", (64, 64), (25, 35, 90))
        >>> pipe("a large red circle on a navy background", picture, strength=0.8).images[0].size
        (64, 64)

        ```
    """

    __module__ = "sd_pipeline"

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        strength: float = 0.8,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
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
        """Generate images from images.

        Args:
            prompt (`str` or `list[str]`, *optional*): What the images shall show. This and all that is not told here
                as in [`SDPipeline`].
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): One image for all prompts, or
                one for each: PIL of any mode, arrays `(height, width, channels)` or tensors `(channels, height,
                width)` in [0, 1]. Sizes need not be multiples of anything.
            strength (`float`, *optional*, defaults to 0.8): How much to change: share of the steps that are taken,
                from 0 (the image, through the autoencoder) to 1.
            num_inference_steps (`int`, *optional*): Steps, of which the last `strength` are taken.
            timesteps (`list[int]`, *optional*): The timesteps themselves.
            sigmas (`list[float]`, *optional*): Or their noise levels.
            guidance_scale (`float`, *optional*): How strongly to follow the prompt.
            negative_prompt (`str` or `list[str]`, *optional*): What to stay away from.
            num_images_per_prompt (`int`, *optional*, defaults to 1): Images of a prompt and its image.
            eta (`float`, *optional*): Noise that DDIM adds.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of all noise.
            prompt_embeds (`torch.Tensor`, *optional*): In place of `prompt`.
            negative_prompt_embeds (`torch.Tensor`, *optional*): In place of `negative_prompt`.
            batch_size (`int`, *optional*): Number of images of an unconditional model.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict (`bool`, *optional*, defaults to `True`): Whether to return an object, or else a tuple.
            cross_attention_kwargs (`dict[str, Any]`, *optional*): Passed to the attention processors.
            guidance_rescale (`float`, *optional*): How much of the added contrast to take back.
            clip_skip (`int`, *optional*): Layers of the text encoder to leave out.
            callback_on_step_end (callable, *optional*): Called after each step.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `("latents",)`): What it gets.

        Returns:
            [`SDPipelineOutput`] with `images`, or a tuple.

        Raises:
            ValueError: If an argument is impossible, or does not go with another or with the model. Nothing has been
                done then.
            FloatingPointError: If the model produced values that are not finite.
        """
        call = self.check_call(Call.from_arguments(locals()))
        check_strength(strength)
        images = read_images(image)
        check_number("image", len(images), call.num_prompts)
        timesteps_to_take = self.take_timesteps(call, strength)

        height, width = images.shape[-2:]
        canvas = pad_to_multiple(images, self.size_multiple) * 2 - 1
        latents = self.encode_for_call(call, canvas)
        if len(timesteps_to_take) > 0:
            noise = self.draw_noise(call, latents.shape)
            first = timesteps_to_take[:1].expand(call.num_images)
            latents = self.scheduler.add_noise(latents, noise, first)
        latents = self.run(call, latents, timesteps_to_take)
        return self.finish(call, latents, lambda pixels: pixels[..., :height, :width])
