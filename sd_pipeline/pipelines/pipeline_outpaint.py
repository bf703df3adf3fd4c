"""Outpainting."""

from __future__ import annotations

from typing import Any

import torch

from sd_pipeline.pipelines.call import Call, Callback
from sd_pipeline.pipelines.call_arguments import check_padding, check_strength, check_tensor
from sd_pipeline.pipelines.image_inputs import check_number, extend_images, read_images
from sd_pipeline.pipelines.painting_pipeline import SDPaintingPipeline
from sd_pipeline.pipelines.pipeline_output import SDPipelineOutput


class SDOutpaintPipeline(SDPaintingPipeline):
    """Extend images beyond their borders, on any side and by any amount.

    The pixels of the images are kept, bit for bit. Where the result is larger than the pictures of the training, the
    U-Net looks at it through overlapping windows of their size in every step, so that it stays coherent.

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
        >>> from sd_pipeline import SDOutpaintPipeline
        >>> pipe = SDOutpaintPipeline.from_pretrained("pretrained/shapes-64")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> picture = Image.new("RGB", (64, 64), (25, 35, 90))
        >>> pipe("a large red circle on a navy background", picture, padding=(0, 0, 40, 0)).images[0].size
        (104, 64)

        ```
    """

    __module__ = "sd_pipeline"

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        strength: float = 1.0,
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
        """Extend.

        Args:
            prompt (`str` or `list[str]`, *optional*): What the whole images shall show. This and all that is not told
                here as in [`SDPipeline`].
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): One image for all prompts, or
                one for each: PIL of any mode, arrays `(height, width, channels)` or tensors `(channels, height,
                width)` in [0, 1]. Sizes need not be multiples of anything.
            padding (`tuple[int, int, int, int]`): Pixels that are added at the left, top, right and bottom; at least
                one of them is above 0.
            strength (`float`, *optional*, defaults to 1.0): 1 starts from noise; less starts from the border colours
                of the image, carried on outwards and blurred, with noise, and takes this share of the steps.
            num_inference_steps (`int`, *optional*): Steps, of which the last `strength` are taken.
            timesteps (`list[int]`, *optional*): The timesteps themselves.
            sigmas (`list[float]`, *optional*): Or their noise levels.
            guidance_scale (`float`, *optional*): How strongly to follow the prompt.
            negative_prompt (`str` or `list[str]`, *optional*): What to stay away from.
            num_images_per_prompt (`int`, *optional*, defaults to 1): Images of a prompt and its image.
            eta (`float`, *optional*): Noise that DDIM adds.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*): Source of all noise.
            latents (`torch.Tensor` of shape `(num_images, num_channels, height / factor, width / factor)`):
                Standard normal noise to start from; sizes are rounded up to whole latents.
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
        check_padding(padding)
        images = read_images(image)
        check_number("image", len(images), call.num_prompts)
        images, holes = extend_images(images, padding)
        shape = self.canvas_shape(call, images)
        if latents is not None:
            check_tensor("latents", latents, shape)
        timesteps_to_take = self.take_timesteps(call, strength)
        latents = self.paint(call, images, holes, strength, timesteps_to_take, latents, window=self.window_of_training)
        return self.finish(call, latents, lambda made: self.keep(call, made, images, holes))
