"""Inpainting."""

from __future__ import annotations

from typing import Any

import torch

from sd_pipeline.pipelines.call import Call, Callback
from sd_pipeline.pipelines.call_arguments import (
    check_image_size,
    check_margin,
    check_strength,
    check_tensor,
    require,
)
from sd_pipeline.pipelines.image_inputs import (
    binary_masks,
    check_number,
    one_for_each,
    read_images,
    read_masks,
    resize_images,
)
from sd_pipeline.pipelines.mask_crop import crop_around
from sd_pipeline.pipelines.painting_pipeline import SDPaintingPipeline
from sd_pipeline.pipelines.pipeline_output import SDPipelineOutput


class SDInpaintPipeline(SDPaintingPipeline):
    """Repaint the part of images that a mask shows in white.

    It behaves as `StableDiffusionInpaintPipeline` of diffusers, with the U-Nets of four and of nine channels: same
    arguments, and the same latents where masks follow the borders of latents. Beyond that the kept pixels are those of
    the input, bit for bit, nothing of the mask is missed where it covers a latent in part, the seam is faded out
    inside the hole, images of any size and mode are taken, and the result has the size that was asked for.

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
        >>> from sd_pipeline import SDInpaintPipeline
        >>> pipe = SDInpaintPipeline.from_pretrained("pretrained/shapes-64")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> picture = Image.new("RGB", (64, 64), (25, 35, 90))
        >>> mask = Image.new("L", (64, 64), "black")
        >>> mask.paste("white", (16, 16, 48, 48))
        >>> pipe("a large red circle on a navy background", picture, mask).images[0].size
        (64, 64)

        ```
    """

    __module__ = "sd_pipeline"

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        mask_image: Any = None,
        masked_image_latents: torch.Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        padding_mask_crop: int | None = None,
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
        """Repaint.

        Args:
            prompt (`str` or `list[str]`, *optional*): What the whole images shall show. This and all that is not told
                here as in [`SDPipeline`].
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): One image for all prompts, or
                one for each: PIL of any mode, arrays `(height, width, channels)` or tensors `(channels, height,
                width)` in [0, 1]. Sizes need not be multiples of anything.
            mask_image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): Of the size of the images,
                one or one for each prompt; white, from one half up, is repainted, black is kept.
            masked_image_latents (`torch.Tensor` of the shape of `latents`, or one for all images, *optional*): What a
                U-Net of nine channels is told of the kept pixels; encoded from them by default.
            height (`int`, *optional*): Of the result, in pixels; images and masks are resized. By default as they are.
            width (`int`, *optional*): Likewise.
            padding_mask_crop (`int`, *optional*): Paint only the surroundings of the hole, this many pixels wide, at
                `height` and `width` (by default as in training), and put them back at their size. The result then has
                the size of the image.
            strength (`float`, *optional*, defaults to 1.0): 1 starts the hole from noise; less starts it from what the
                image shows there, with noise, and takes this share of the steps.
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
        check_margin(padding_mask_crop)
        images = read_images(image)
        masks = read_masks(mask_image, (images.shape[-2], images.shape[-1]))
        crop = None
        if padding_mask_crop is None:
            images, masks = (resize_images(given, height, width) for given in (images, masks))
            masks = binary_masks(masks)
            canvas, holes = images, masks
        else:
            height, width = self.size_of_training(height, width)
            check_image_size(height, width, 1)
            crop = crop_around(masks, padding_mask_crop, height, width)
            canvas, holes = (resize_images(crop.cut(given), height, width) for given in (images, masks))
            holes = (holes >= 0.5).float()
        check_number("image", len(images), call.num_prompts)
        check_number("mask_image", len(masks), call.num_prompts)
        shape = self.canvas_shape(call, canvas)
        if latents is not None:
            check_tensor("latents", latents, shape)
        if masked_image_latents is not None:
            allowed = "left out: this U-Net takes no masked latents"
            require(self.is_inpainting_model, "masked_image_latents", masked_image_latents, allowed)
            check_tensor("masked_image_latents", masked_image_latents, (None, *shape[1:]))
            check_number("masked_image_latents", len(masked_image_latents), call.num_images, "image")
        timesteps_to_take = self.take_timesteps(call, strength)
        latents = self.paint(call, canvas, holes, strength, timesteps_to_take, latents, masked_image_latents)

        def put_in_place(made: torch.Tensor) -> torch.Tensor:
            if crop is not None:
                each = one_for_each(images, call.num_prompts, call.num_images_per_prompt, "image")
                made = crop.paste(made[..., : canvas.shape[-2], : canvas.shape[-1]], each)
            return self.keep(call, made, images, masks)

        return self.finish(call, latents, put_in_place)
