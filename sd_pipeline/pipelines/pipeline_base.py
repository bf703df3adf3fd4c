"""The components that all diffusion pipelines here have, what they are fit for, and prompts to embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, StableDiffusionMixin
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.image_processing_utils import BaseImageProcessor

from sd_pipeline.models.autoencoder_kl import SDAutoencoderKL
from sd_pipeline.models.unet_2d_condition import SDUNet2DConditionModel
from sd_pipeline.pipelines import call_arguments
from sd_pipeline.pipelines.adapters import SafetensorsLoraMixin
from sd_pipeline.pipelines.call_arguments import STOCK_CALL, require
from sd_pipeline.pipelines.loading import StockRepositoryPipeline
from sd_pipeline.pipelines.prompt_encoding import encode_prompts, repeat_per_prompt, scaled_adapters
from sd_pipeline.pipelines.scheduler_use import Scheduler, check_prediction_type, check_variance_type, fit_for_latents

if TYPE_CHECKING:
    from typing_extensions import Self

# Through these accelerate and diffusers compute elsewhere than where weights are.
_HOOKS = frozenset({"_hf_hook", "_diffusers_hook"})


class SDBasePipeline(StableDiffusionMixin, SafetensorsLoraMixin, StockRepositoryPipeline):
    """Components, what a call may ask of them, prompts to embeddings. LoRA files load and unload as in diffusers.

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
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"  # type: ignore[assignment]
    _optional_components = ["vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"]  # noqa: RUF012 (read by diffusers)
    _exclude_from_cpu_offload = ["safety_checker"]  # noqa: RUF012 (read by diffusers)
    takes_masked_images = False

    def __init__(
        self,
        *,
        unet: SDUNet2DConditionModel | UNet2DConditionModel,
        scheduler: Scheduler,
        vae: SDAutoencoderKL | AutoencoderKL | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        safety_checker: StableDiffusionSafetyChecker | None = None,
        feature_extractor: BaseImageProcessor | None = None,
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
        if safety_checker is not None and feature_extractor is None:
            raise ValueError("`safety_checker` is given without the `feature_extractor` that prepares its images")
        if vae is not None:
            scheduler = fit_for_latents(scheduler)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(recommended_call=dict(recommended_call or {}))
        self.vae_scale_factor = 1 if vae is None else 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Use the components of another pipeline, which then share their memory, and its recommended call.

        Args:
            pipeline (`DiffusionPipeline`): One of this package or a Stable Diffusion pipeline of diffusers.
            kwargs: As in `DiffusionPipeline.from_pipe`: components to use instead, or `dtype`. Without one, diffusers
                casts the shared components to float32; here they stay what they are.
        """
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            kwargs["dtype"] = pipeline.dtype
        return super().from_pipe(pipeline, **kwargs)

    @property
    def _execution_device(self) -> torch.device:
        """Where the models compute, as diffusers finds it.

        It looks for hooks by asking every module for an attribute that hardly any has, which takes as long as a step
        of a small model. Only somebody who offloads waits for that here.
        """
        models = [component for component in self.components.values() if isinstance(component, torch.nn.Module)]
        if any(not _HOOKS.isdisjoint(vars(module)) for model in models for module in model.modules()):
            return super()._execution_device
        return self.device

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

    @property
    def num_latent_channels(self) -> int:
        """Channels of what the loop denoises: of latents, or of pixels where there is no autoencoder."""
        config = self.unet.config  # It takes more where it inpaints, and gives more where it learns variances.
        of_unet: int = min(config.in_channels, config.out_channels)
        return of_unet if self.vae is None else self.vae.config.latent_channels

    @property
    def is_inpainting_model(self) -> bool:
        """Whether the U-Net was trained to inpaint: it takes a mask and masked latents beside the noisy ones."""
        return self.unet.config.in_channels == 2 * self.num_latent_channels + 1

    @property
    def size_multiple(self) -> int:
        """Side of the squares of pixels that images are made of: what becomes one latent, for most U-Nets.

        Those with other blocks than Stable Diffusion's cannot halve an odd number of latents and double it again.
        """
        config = self.unet.config
        is_any_size = set(config.up_block_types) <= {"UpBlock2D", "CrossAttnUpBlock2D"}
        return self.vae_scale_factor * (1 if is_any_size else 2 ** (len(config.block_out_channels) - 1))

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
        height, width = self.size_of_training(height, width)
        call_arguments.check_image_size(height, width, self.size_multiple)
        factor = self.vae_scale_factor
        return num_images, self.num_latent_channels, height // factor, width // factor

    def size_of_training(self, height: int | None = None, width: int | None = None) -> tuple[Any, Any]:
        """Complete a size with that of the training images.

        Args:
            height (`int`, *optional*): In pixels.
            width (`int`, *optional*): In pixels.

        Returns:
            `tuple[int, int]`: Height and width; `None` where nobody knows.
        """
        size = self.unet.config.sample_size
        sides = size if isinstance(size, (list, tuple)) else (size, size)
        trained = [side and side * self.vae_scale_factor for side in sides]
        return (trained[0] if height is None else height), (trained[1] if width is None else width)

    def check_components(self) -> None:
        """Check that the components, which can be exchanged, still suit each other and the task.

        Raises:
            ValueError: If the scheduler cannot use what the U-Net predicts, or the U-Net not what it is given.
        """
        check_prediction_type(self.scheduler)
        check_variance_type(self.scheduler, self.unet.config.out_channels == 2 * self.num_latent_channels)
        if self.unet.config.in_channels == self.num_latent_channels:
            return
        if not self.is_inpainting_model:
            raise ValueError(
                f"`unet` takes {self.unet.config.in_channels} channels, but `vae` makes {self.num_latent_channels}: "
                "this is no model that a text-to-image or inpainting pipeline can use"
            )
        if not self.takes_masked_images:
            raise ValueError(
                f"`unet` takes {self.unet.config.in_channels} channels: it was trained to inpaint, and this is no "
                "text-to-image model; use SDInpaintPipeline or SDOutpaintPipeline, `from_pipe` keeps the components"
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
        lora_scale: float | None = None,
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
            lora_scale (`float`, *optional*): Factor of the LoRA adapters of the text encoder.
            clip_skip (`int`, *optional*): Layers of the text encoder to leave out for `prompt`.

        Returns:
            Two `torch.Tensor` of shape `(num_prompts * num_images_per_prompt, length, cross_attention_dim)`, of the
            U-Net's dtype. The second, for negative prompts, is `None` without guidance.

        Raises:
            ValueError: If the shapes of embeddings differ.
        """
        with scaled_adapters(self.text_encoder, lora_scale):
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
