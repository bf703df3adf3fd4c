"""The third stage: the U-Net, trained on Algorithm 1 of the report in latent or pixel space, with or without text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.utils import make_image_grid
from PIL import Image
from torch.utils.data import Dataset
from transformers import CLIPTextModel

from sd_pipeline import SDDDPMScheduler, SDPipeline, SDUNet2DConditionModel
from sd_pipeline.latents import scale_latents
from sd_pipeline.publishing.model_card import model_card
from sd_pipeline.publishing.repository import export_pipeline
from sd_pipeline.schedulers.signal_to_noise import min_snr_weights, snr
from training.config import DiffusionConfig, TrainConfig
from training.data.captioned_images import CaptionedImages
from training.data.clip_tokenizer import tokenize
from training.data.latent_cache import CachedLatents
from training.engine.random_streams import standard_normal, uniform
from training.engine.task import Batch, Validation
from training.tasks.components import FrozenModels, build, build_unet, downsampling_factor
from training.tasks.parameter_groups import decay_matrices_only
from training.tasks.schedulers import build_scheduler, recommended_scheduler
from training.tasks.timestep_sampling import draw_timesteps

CARD_TEMPLATE = Path(__file__).parents[2] / "model_cards" / "pipeline.md"
_PICTURES = 8


class DenoisingModel(torch.nn.Module):
    """The U-Net, and a text encoder that learns with it, with the loss of Algorithm 1.

    Args:
        unet (`SDUNet2DConditionModel`): The network.
        text_encoder (`CLIPTextModel`, *optional*): Trained jointly.
        scheduler (`SDDDPMScheduler`): The forward process and what is predicted.
        snr_gamma (`float`, *optional*): Gamma of min-SNR weighting; none weights all timesteps alike.
    """

    def __init__(
        self,
        unet: SDUNet2DConditionModel,
        text_encoder: CLIPTextModel | None,
        scheduler: SDDDPMScheduler,
        snr_gamma: float | None,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.scheduler = scheduler
        self.snr_gamma = snr_gamma

    def forward(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        caption_rows: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Predict from x_t and compare: w(t) |target - prediction|^2 (report, Algorithm 1; eq. 23 without its weight).

        Args:
            latents (`torch.Tensor` of shape `(batch_size, channels, height, width)`): x_0, about unit variance.
            noise (`torch.Tensor`, same shape): epsilon.
            timesteps (`torch.LongTensor` of shape `(batch_size,)`): t.
            encoder_hidden_states (`torch.Tensor` of shape `(batch_size, length, dim)`, *optional*): Encoded captions.
            input_ids (`torch.LongTensor` of shape `(num_captions, length)`, *optional*): For a joint text encoder.
            caption_rows (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Which of them a sample has.

        Returns:
            `dict`: `"loss"` of shape `(batch_size,)`, float32.
        """
        if self.text_encoder is not None:
            encoder_hidden_states = self.text_encoder(input_ids)[0][caption_rows]
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        prediction = self.unet(noisy_latents, timesteps, encoder_hidden_states).sample
        target = self.scheduler.training_target(latents, noise, timesteps)
        loss = (prediction.float() - target.float()).square().flatten(1).mean(1)
        return {"loss": loss * self._weights(timesteps)}

    def _weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        if self.snr_gamma is None:
            return torch.ones(timesteps.shape, device=timesteps.device)
        alphas_cumprod = self.scheduler.alphas_cumprod.to(timesteps.device)
        ratio, previous = snr(alphas_cumprod, timesteps), snr(alphas_cumprod, timesteps - 1)
        return min_snr_weights(ratio, self.snr_gamma, self.scheduler.config["prediction_type"], previous)


class DiffusionTask:
    """Trains the U-Net; its export is the finished pipeline.

    Args:
        config (`TrainConfig`): The run.
        dataset (`CaptionedImages`): Training images and captions.
        frozen (`FrozenModels`): What the earlier stages made, on the device of the training.
    """

    name = "diffusion"

    def __init__(self, config: TrainConfig, dataset: CaptionedImages, frozen: FrozenModels) -> None:
        self.config = config
        self.settings: DiffusionConfig = config.diffusion
        self.frozen = frozen
        self.dataset: Dataset[Any] = self._cached(dataset)
        self.captions = dataset.captions
        resolution, vae = config.data.resolution, frozen.vae
        channels = 3 if vae is None else vae.config["latent_channels"]
        size = resolution if vae is None else resolution // downsampling_factor(vae)
        self.latent_shape = (channels, size, size)
        hidden_size = None if frozen.text_encoder is None else frozen.text_encoder.config.hidden_size
        torch.manual_seed(config.seed)
        self.unet = build_unet(config, channels, size, hidden_size)
        self.scheduler = build_scheduler(config, in_pixel_space=vae is None)
        learns_text = config.text_encoder.training == "joint" or self.settings.train_text_encoder
        self.learns_text = learns_text and frozen.text_encoder is not None
        if self.settings.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        for model in (frozen.vae, None if self.learns_text else frozen.text_encoder):
            if model is not None:
                model.requires_grad_(False).eval()
        joint = frozen.text_encoder if self.learns_text else None
        if joint is not None and self.settings.gradient_checkpointing:
            joint.gradient_checkpointing_enable()
        self.model = DenoisingModel(self.unet, joint, self.scheduler, self.settings.snr_gamma)

    def _cached(self, dataset: CaptionedImages) -> Dataset[Any]:
        if not self.settings.cache_latents:
            return dataset
        return build("diffusion.cache_latents", CachedLatents, {"dataset": dataset, "vae": self.frozen.vae})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; a joint text encoder may have a learning rate of its own."""
        groups = decay_matrices_only(self.unet)
        if self.model.text_encoder is not None:
            rate = self.settings.text_encoder_learning_rate or self.settings.learning_rate
            groups += decay_matrices_only(self.model.text_encoder, lr=rate)
        return groups

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack the images or posteriors and draw noise, timesteps and dropped captions."""
        seed, numbers = self.config.seed, [sample["sample_number"] for sample in samples]
        batch = {
            key: torch.stack([sample[key] for sample in samples])
            for key in ("pixel_values", "latent_mean", "latent_std")
            if key in samples[0]
        }
        if self.frozen.vae is not None and self.settings.sample_posterior:
            batch["posterior_noise"] = standard_normal(seed, "diffusion/posterior", numbers, self.latent_shape)
        batch["noise"] = standard_normal(seed, "diffusion/noise", numbers, self.latent_shape)
        if self.settings.noise_offset:
            offset = standard_normal(seed, "diffusion/offset", numbers, (self.latent_shape[0], 1, 1))
            batch["noise"] += self.settings.noise_offset * offset
        num_timesteps = self.scheduler.config["num_train_timesteps"]
        batch["timesteps"] = draw_timesteps(self.settings, seed, numbers, num_timesteps)
        if self.frozen.tokenizer is not None:
            dropped = uniform(seed, "diffusion/caption_drop", numbers) < self.settings.proportion_empty_prompts
            captions = ["" if drop else s["caption"] for drop, s in zip(dropped.tolist(), samples, strict=True)]
            # Every caption of a batch is encoded once, however many samples have it.
            distinct = sorted(set(captions))
            batch["input_ids"] = tokenize(self.frozen.tokenizer, distinct)
            batch["caption_rows"] = torch.tensor([distinct.index(caption) for caption in captions])
        return batch

    @torch.no_grad()
    def prepare_batch(self, batch: Batch) -> Batch:
        """Encode images and captions with what is frozen."""
        arguments = {"noise": batch["noise"], "timesteps": batch["timesteps"]}
        vae = self.frozen.vae
        if vae is None:
            arguments["latents"] = batch["pixel_values"]
        else:
            if "latent_mean" in batch:
                latents, std = batch["latent_mean"], batch["latent_std"]
            else:
                posterior = vae.encode(batch["pixel_values"]).latent_dist
                latents, std = posterior.mean, posterior.std
            if self.settings.sample_posterior:
                latents = latents + std * batch["posterior_noise"]
            arguments["latents"] = scale_latents(latents, vae.config)
        if self.learns_text:
            return {**arguments, "input_ids": batch["input_ids"], "caption_rows": batch["caption_rows"]}
        if self.frozen.text_encoder is not None:
            hidden_states = self.frozen.text_encoder(batch["input_ids"])[0]
            arguments["encoder_hidden_states"] = hidden_states[batch["caption_rows"]]
        return arguments

    def pipeline(self) -> SDPipeline:
        """Assemble the pipeline from the models as they stand, with the recommended sampler."""
        return SDPipeline(
            vae=self.frozen.vae,
            text_encoder=self.frozen.text_encoder,
            tokenizer=self.frozen.tokenizer,
            unet=self.unet,
            scheduler=recommended_scheduler(self.config, self.scheduler),
        )

    def validate(self, step: int) -> Validation:
        """Draw pictures of fixed prompts from fixed noise."""
        evaluation = self.config.evaluation
        pipe = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        prompts = self._prompts()
        count = len(prompts) if self.frozen.tokenizer is not None else _PICTURES
        latents = standard_normal(self.config.seed, "validation", range(count), self.latent_shape)
        conditions = {"prompt": prompts} if self.frozen.tokenizer is not None else {"batch_size": count}
        output = pipe(
            **conditions,
            latents=latents.to(self.unet.device),
            num_inference_steps=evaluation.num_inference_steps,
            guidance_scale=evaluation.guidance_scale,
            eta=evaluation.eta,
            generator=torch.Generator().manual_seed(self.config.seed),
            return_dict=False,
        )
        images = cast(list[Image.Image], output[0])
        return Validation(images={"samples": make_image_grid(images, rows=1, cols=len(images))})

    def export(self, folder: Path) -> None:
        """Write the finished repository, with its card."""
        evaluation = self.config.evaluation
        has_text = self.frozen.tokenizer is not None
        recommended_call: dict[str, int | float] = {"num_inference_steps": evaluation.num_inference_steps}
        if has_text:
            recommended_call["guidance_scale"] = evaluation.guidance_scale
        if evaluation.eta > 0:
            recommended_call["eta"] = evaluation.eta
        card = model_card(
            CARD_TEMPLATE,
            name=Path(self.config.output_dir).name,
            repository=f"{self.config.output_dir}/pipeline",
            example_prompt=self._prompts()[0] if has_text else None,
            loads_in_diffusers=has_text and self.frozen.vae is not None and self._predicts_what_stock_knows,
            recommended_call=recommended_call,
            config=dataclasses.asdict(self.config),
        )
        export_pipeline(
            folder,
            unet=self.unet,
            scheduler=recommended_scheduler(self.config, self.scheduler),
            vae=self.frozen.vae,
            text_encoder=self.frozen.text_encoder,
            tokenizer=self.frozen.tokenizer,
            recommended_call=recommended_call,
            card=card,
        )

    @property
    def _predicts_what_stock_knows(self) -> bool:
        return self.scheduler.config["prediction_type"] != "mean"

    def _prompts(self) -> list[str]:
        return self.config.evaluation.validation_prompts or list(dict.fromkeys(self.captions))[:_PICTURES]
