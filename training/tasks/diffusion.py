"""The third stage: the U-Net, trained on Algorithm 1 of the report in latent or pixel space, with or without text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.utils import make_image_grid
from PIL import Image
from torch.utils.data import Dataset

from sd_pipeline import SDInpaintPipeline, SDPipeline, SDUNet2DConditionModel
from sd_pipeline.latents import scale_latents
from sd_pipeline.publishing.repository import export_pipeline
from sd_pipeline.schedulers.bound_of_schedule import Decoder
from training.config import ConfigError, DiffusionConfig, TrainConfig
from training.data.captioned_images import CaptionedImages
from training.data.clip_tokenizer import distinct_tokens
from training.data.latent_cache import CachedLatents
from training.engine.random_streams import standard_normal, stream_key, uniform
from training.engine.task import Batch, Validation, WithoutAdversary
from training.evaluation.spreading import spread
from training.tasks.components import FrozenModels, build_unet, downsampling_factor
from training.tasks.denoising_model import DenoisingModel
from training.tasks.distillation import Teacher
from training.tasks.held_out_images import HeldOutImages
from training.tasks.inpainting import added_channels, draw_masks, holed_pictures
from training.tasks.lora import add_adapters, save_adapters
from training.tasks.parameter_groups import decay_matrices_only
from training.tasks.pretrained import recommended_call
from training.tasks.schedulers import build_scheduler, recommended_scheduler
from training.tasks.text_embeddings import TextEmbeddings
from training.tasks.timestep_sampling import draw_timesteps, timesteps_of

_PICTURES = 8
_PICTURES_AT_A_TIME = 4
_LARGER_WITHOUT_GRADIENTS = 4


class DiffusionTask(WithoutAdversary):
    """Trains the U-Net; its export is the finished pipeline.

    Args:
        config (`TrainConfig`): The run.
        dataset (`CaptionedImages`): Training images and captions.
        frozen (`FrozenModels`): What the earlier stages made, on the device of the training.
        pretrained (`SDInpaintPipeline`, *optional*): The model that the run goes on from, `frozen` its parts.
        validation_dataset (`CaptionedImages`, *optional*): Held-out images, which are seen as squares.

    Raises:
        DataError: If the latent cache holds something else or cannot be written, or an image cannot be read.
        RunStopped: If a stop was asked for; what is encoded stays.
    """

    name = "diffusion"
    shardable = True

    def __init__(
        self,
        config: TrainConfig,
        dataset: CaptionedImages,
        frozen: FrozenModels,
        pretrained: SDInpaintPipeline | None = None,
        validation_dataset: CaptionedImages | None = None,
    ) -> None:
        self.config = config
        self.settings: DiffusionConfig = config.diffusion
        self.frozen = frozen
        self.pretrained = pretrained
        self.pictures = dataset.squares()
        self.dataset: Dataset[Any] = self._cached(dataset)
        self.captions = list(dict.fromkeys(dataset.captions))[:_PICTURES]
        resolution, vae = config.data.resolution, frozen.vae
        channels = 3 if vae is None else vae.config["latent_channels"]
        self.factor = 1 if vae is None else downsampling_factor(vae)
        self.latent_shape = (channels, resolution // self.factor, resolution // self.factor)
        self.unet = self._start()
        of_pretrained = None if pretrained is None else pretrained.scheduler
        self.scheduler = build_scheduler(config, in_pixel_space=vae is None, pretrained=of_pretrained)
        self.num_timesteps: int = self.scheduler.config["num_train_timesteps"]
        self.sampler = recommended_scheduler(config, self.scheduler, of_pretrained)
        recommendation = None if pretrained is None else pretrained.config["recommended_call"]
        self.call = recommended_call(config.sampling, frozen.tokenizer is not None, recommendation)
        learns_text = config.text_encoder.training == "joint" or self.settings.train_text_encoder
        self.learns_text = learns_text and frozen.text_encoder is not None
        for model in (frozen.vae, None if self.learns_text else frozen.text_encoder):
            if model is not None:
                model.requires_grad_(False).eval()
        joint = frozen.text_encoder if self.learns_text else None
        self.text_embeddings: TextEmbeddings | None = None
        tokenizer, text_encoder = frozen.tokenizer, frozen.text_encoder
        if self.settings.pre_compute_text_embeddings and tokenizer is not None and text_encoder is not None:
            self.text_embeddings = TextEmbeddings(dataset.captions, tokenizer, text_encoder)
        self.teacher: Teacher | None = None
        if self.settings.distillation.is_on and pretrained is not None:
            self.teacher = Teacher(config, pretrained, self.scheduler)
        if self.settings.lora.rank > 0:
            add_adapters(self.unet, joint, self.settings.lora, config.seed)
        if self.settings.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
            if joint is not None:
                joint.gradient_checkpointing_enable()
        decoder: Decoder = "discretised" if vae is None else "gaussian"
        self.model = DenoisingModel(self.unet, joint, self.scheduler, self.settings, decoder)
        self.held_out: HeldOutImages | None = None
        if validation_dataset:
            squares = validation_dataset.squares()
            tokens = None if tokenizer is None else partial(distinct_tokens, tokenizer)
            steps, offset = timesteps_of(self.settings, self.num_timesteps), self.settings.noise_offset
            self.held_out = HeldOutImages(squares, self._held_out, tokens, self.latent_shape, steps, offset)

    def _start(self) -> SDUNet2DConditionModel:
        if self.pretrained is not None:
            return cast(SDUNet2DConditionModel, self.pretrained.unet)
        channels, size, _ = self.latent_shape
        text_encoder = self.frozen.text_encoder
        torch.manual_seed(self.config.seed)
        hidden_size = None if text_encoder is None else text_encoder.config.hidden_size
        return build_unet(self.config, channels, size, hidden_size)

    def _cached(self, dataset: CaptionedImages) -> Dataset[Any]:
        if not self.settings.cache_latents:
            return dataset
        if self.frozen.vae is None:
            raise ConfigError("diffusion.cache_latents = True: a model in pixel space has no latents to cache")
        if self.frozen.vae.config["posterior"] == "cholesky":
            raise ConfigError("diffusion.cache_latents = True: must be false with posterior 'cholesky'")
        num_workers = self.config.data.dataloader_num_workers
        folder = Path(self.config.latent_cache_dir).expanduser()
        return CachedLatents(dataset, self.frozen.vae, folder, num_workers=num_workers)

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
        shape = self._shape_of_latents(batch)
        if self.frozen.vae is not None and self.settings.sample_posterior:
            batch["posterior_noise"] = standard_normal(seed, "diffusion/posterior", numbers, shape)
            if self.settings.inpainting:
                # Noise of its own: shared, it would tell the U-Net what is random in the latents that it is to find.
                name = "diffusion/masked_posterior"
                batch["masked_posterior_noise"] = standard_normal(seed, name, numbers, shape)
        if self.settings.inpainting:
            batch["mask"] = draw_masks(seed, numbers, *batch["pixel_values"].shape[-2:])
        batch["noise"] = standard_normal(seed, "diffusion/noise", numbers, shape)
        if self.settings.noise_offset:
            offset = standard_normal(seed, "diffusion/offset", numbers, (shape[0], 1, 1))
            batch["noise"] += self.settings.noise_offset * offset
        batch["timesteps"] = draw_timesteps(self.settings, seed, numbers, self.num_timesteps)
        if self.frozen.tokenizer is not None:
            dropped = uniform(seed, "diffusion/caption_drop", numbers) < self.settings.proportion_empty_prompts
            captions = ["" if drop else s["caption"] for drop, s in zip(dropped.tolist(), samples, strict=True)]
            if self.text_embeddings is not None:
                return {**batch, "encoder_hidden_states": self.text_embeddings(captions)}
            batch |= distinct_tokens(self.frozen.tokenizer, captions)
        return batch

    def _shape_of_latents(self, batch: Batch) -> tuple[int, ...]:
        """Tell the shape of one sample's latents; all samples of a batch have one shape."""
        if "latent_mean" in batch:
            return tuple(batch["latent_mean"].shape[1:])
        height, width = (side // self.factor for side in batch["pixel_values"].shape[-2:])
        return self.latent_shape[0], height, width

    @torch.no_grad()
    def prepare_batch(self, batch: Batch, step: int) -> Batch:
        """Encode images and captions with what is frozen."""
        arguments = {"noise": batch["noise"], "timesteps": batch["timesteps"], **self._seen(batch)}
        if self.learns_text:
            return {**arguments, "input_ids": batch["input_ids"], "caption_rows": batch["caption_rows"]}
        if "encoder_hidden_states" in batch:
            arguments["encoder_hidden_states"] = batch["encoder_hidden_states"]
        elif self.frozen.text_encoder is not None:
            hidden_states = self.frozen.text_encoder(batch["input_ids"])[0]
            arguments["encoder_hidden_states"] = hidden_states[batch["caption_rows"]]
        return arguments if self.teacher is None else self.teacher.teach(arguments)

    def _seen(self, batch: Batch) -> Batch:
        """Make what the U-Net sees of images. Held-out ones have been encoded, and bring it along."""
        if "latents" in batch:
            return {name: batch[name] for name in ("latents", "added_channels") if name in batch}
        seen = {"latents": self._latents(batch)}
        if self.settings.inpainting:
            masked_pixels = batch["pixel_values"] * (1 - batch["mask"])
            masked = self._encode(masked_pixels, batch.get("masked_posterior_noise"))
            seen["added_channels"] = added_channels(batch["mask"], masked, self.factor)
        return seen

    @torch.no_grad()
    def _held_out(self, drawn: Batch) -> Batch:
        """Encode held-out images with what was drawn for them, as far as this training samples and masks."""
        device = "cpu" if self.frozen.vae is None else self.frozen.vae.device
        return self._seen(
            {n: v.to(device) for n, v in drawn.items() if self.settings.sample_posterior or not n.endswith("noise")}
        )

    def _latents(self, batch: Batch) -> torch.Tensor:
        noise = batch.get("posterior_noise")
        if self.frozen.vae is None or "latent_mean" not in batch:
            return self._encode(batch["pixel_values"], noise)
        mean, std = batch["latent_mean"], batch["latent_std"]
        return scale_latents(mean if noise is None else mean + std * noise, self.frozen.vae.config)

    def _encode(self, pixel_values: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        if self.frozen.vae is None:
            return pixel_values
        posterior = self.frozen.vae.encode(pixel_values).latent_dist
        latents = posterior.mean if noise is None else posterior.reparameterise(noise)
        return scale_latents(latents, self.frozen.vae.config)

    def pipeline(self) -> SDPipeline | SDInpaintPipeline:
        """Assemble the pipeline from the models as they stand, with the recommended sampler."""
        kind = SDInpaintPipeline if self.settings.inpainting else SDPipeline
        return kind(
            vae=self.frozen.vae,
            text_encoder=self.frozen.text_encoder,
            tokenizer=self.frozen.tokenizer,
            unet=self.unet,
            scheduler=self.sampler,
            recommended_call=self.call,
        )

    def sample_name(self, index: int) -> str:
        """Name a sample by its file, its row or its number."""
        return self.pictures.source.name(index)

    def validation_batches(self) -> Sequence[Callable[[], Batch]]:
        """Give the held-out images, each with fixed noise at timesteps that cover the schedule evenly."""
        # Without a backward pass far fewer activations are kept, unless those of training were recomputed too.
        factor = 1 if self.settings.gradient_checkpointing else _LARGER_WITHOUT_GRADIENTS
        return [] if self.held_out is None else self.held_out.batches(factor * self.settings.train_batch_size)

    def validate(self, step: int) -> Validation:
        """Draw pictures of fixed prompts, or in fixed holes, from fixed noise, whatever the number of processes."""
        pipe = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        holed = holed_pictures(self.pictures, _PICTURES, self.config.seed) if self.settings.inpainting else None
        prompts = self.prompts() if holed is None else holed.captions
        has_text = self.frozen.tokenizer is not None
        count = len(prompts) if has_text else _PICTURES

        def draw(numbers: Sequence[int]) -> list[Image.Image]:
            conditions: dict[str, Any] = {"batch_size": len(numbers)}
            if has_text:
                conditions = {"prompt": [prompts[number] for number in numbers]}
            if holed is not None:
                conditions["image"] = [holed.pictures[number] for number in numbers]
                conditions["mask_image"] = [holed.masks[number] for number in numbers]
            latents = standard_normal(self.config.seed, "validation", numbers, self.latent_shape)
            keys = [stream_key(self.config.seed, "validation", number) % 2**63 for number in numbers]
            output = pipe(
                **conditions,
                latents=latents.to(self.unet.device),
                generator=[torch.Generator().manual_seed(key) for key in keys],
                return_dict=False,
            )
            return cast(list[Image.Image], output[0])

        images = spread(draw, range(count), _PICTURES_AT_A_TIME)
        rows = [images] if holed is None else [holed.shown, images]
        grid = make_image_grid([image for row in rows for image in row], rows=len(rows), cols=count)
        return Validation(images={"samples": grid})

    def export(self, folder: Path) -> None:
        """Write the finished repository, or the file of the adapters."""
        if self.settings.lora.rank > 0:
            folder.mkdir(parents=True, exist_ok=True)
            save_adapters(folder, self.unet, self.model.text_encoder)
            return
        base = self.pretrained  # Its safety checker is kept.
        export_pipeline(
            folder,
            unet=self.unet,
            scheduler=self.sampler,
            vae=self.frozen.vae,
            text_encoder=self.frozen.text_encoder,
            tokenizer=self.frozen.tokenizer,
            safety_checker=None if base is None else base.safety_checker,
            feature_extractor=None if base is None else base.feature_extractor,
            recommended_call=self.call,
        )

    def prompts(self) -> list[str]:
        """Return the prompts of the validation: those of the run, or captions."""
        return self.config.evaluation.validation_prompts or self.captions
