"""The first stage: the tokenizer, and the text encoder by contrastive training, at random or from a repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate.utils import gather
from torch.utils.data import Dataset
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel

from training.config import TrainConfig
from training.data.captioned_images import CaptionedImages
from training.data.clip_tokenizer import tokenize, train_clip_tokenizer
from training.data.held_out_draws import VALIDATION_IMAGES
from training.engine.task import Batch, Validation, WithoutAdversary
from training.tasks.components import build_clip_model, build_text_model, load_text_encoder, text_model_config
from training.tasks.losses import contrastive_loss
from training.tasks.parameter_groups import decay_matrices_only
from training.tasks.thumbnail import ThumbnailDecoder, thumbnail_error

MAX_LOGIT_SCALE = 100.0


def gather_with_gradient(local: torch.Tensor) -> torch.Tensor:
    """Concatenate the rows of all processes; gradients flow back to the process that a row came from."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return local
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(local))


class ContrastiveModel(torch.nn.Module):
    """Both towers of CLIP with the symmetric contrastive loss over the global batch, and a thumbnail's error if asked.

    Equal captions are positives of each other, not negatives. The loss compares all pairs of a batch, so it is no mean
    over samples and cannot be accumulated.

    Args:
        clip (`transformers.CLIPModel`): The towers.
        thumbnail_weight (`float`, defaults to 0.0):
            Factor of the squared error of a thumbnail that is drawn from the text's states; 0 draws none.
    """

    def __init__(self, clip: CLIPModel, thumbnail_weight: float = 0.0) -> None:
        super().__init__()
        self.clip = clip
        self.thumbnail_weight = thumbnail_weight
        text = cast(CLIPTextConfig, clip.config.text_config)
        self.thumbnail_decoder = (
            ThumbnailDecoder(text.hidden_size, text.num_attention_heads) if thumbnail_weight > 0 else None
        )

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compare every image with every caption.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): In [-1, 1].
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): Tokens.

        Returns:
            `dict`: `"loss"` of shape `(batch_size,)`.
        """
        images = F.normalize(self.image_embeddings(pixel_values), dim=-1)
        states = self.clip.text_model(input_ids=input_ids)
        texts = F.normalize(self.clip.text_projection(states.pooler_output), dim=-1)
        all_images, all_texts = gather_with_gradient(images), gather_with_gradient(texts)
        all_ids = gather(input_ids)
        is_positive = (input_ids[:, None] == all_ids[None]).all(-1)
        scale = self.clip.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        to_text = contrastive_loss(images, all_texts, is_positive, scale)
        to_image = contrastive_loss(texts, all_images, is_positive, scale)
        loss = (to_text + to_image) / 2
        if self.thumbnail_decoder is not None:
            thumbnails = self.thumbnail_decoder(states.last_hidden_state)
            loss = loss + self.thumbnail_weight * thumbnail_error(thumbnails, pixel_values)
        return {"loss": loss}

    def image_embeddings(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed images; `(batch_size, projection_dim)`."""
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=pixel_values).pooler_output)

    def text_embeddings(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embed captions; `(batch_size, projection_dim)`."""
        return self.clip.text_projection(self.clip.text_model(input_ids=input_ids).pooler_output)


class TextEncoderTask(WithoutAdversary):
    """Trains, initialises or fetches the tokenizer and the text encoder.

    Args:
        config (`TrainConfig`): The run.
        dataset (`CaptionedImages`): Training images and captions; the images are seen as squares.
        validation_dataset (`CaptionedImages`, *optional*): Held-out ones.
    """

    name = "text_encoder"
    shardable = False
    num_timesteps = 0

    def __init__(
        self, config: TrainConfig, dataset: CaptionedImages, validation_dataset: CaptionedImages | None
    ) -> None:
        self.config = config
        self.pictures = dataset
        self.dataset: Dataset[Any] = dataset.squares()  # An image tower has one size.
        self.validation_dataset = validation_dataset
        block = config.text_encoder
        path = block.pretrained_model_name_or_path
        self.model: torch.nn.Module
        if path is not None:
            self.tokenizer, self.model = load_text_encoder(path)
            return
        length = text_model_config(block, None).max_position_embeddings
        self.tokenizer = train_clip_tokenizer(dataset.captions, block.vocab_size, length)
        torch.manual_seed(config.seed)
        if block.training == "joint":
            self.model = build_text_model(block, self.tokenizer)
        else:
            clip = build_clip_model(block, self.tokenizer, config.data.resolution)
            if block.gradient_checkpointing:
                clip.gradient_checkpointing_enable()
            self.model = ContrastiveModel(clip, block.thumbnail_weight)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups."""
        return decay_matrices_only(self.model)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Stack the images and tokenise the captions."""
        return {
            "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
            "input_ids": tokenize(self.tokenizer, [sample["caption"] for sample in samples]),
        }

    def prepare_batch(self, batch: Batch, step: int) -> Batch:
        """Nothing here is frozen."""
        return batch

    def sample_name(self, index: int) -> str:
        """Name a sample by its file, its row or its number."""
        return self.pictures.source.name(index)

    def validation_batches(self) -> Sequence[Callable[[], Batch]]:
        """Nothing."""
        return []  # Every sample is compared with all others of its batch: the loss is no mean over samples.

    def validate(self, step: int) -> Validation:
        """Measure how often an image's caption is the nearest of all captions, and how well it tells the thumbnail."""
        if not isinstance(self.model, ContrastiveModel) or not self.validation_dataset:
            return Validation()
        device = self.model.clip.logit_scale.device
        samples = [self.validation_dataset[i] for i in range(min(len(self.validation_dataset), VALIDATION_IMAGES))]
        captions = sorted({sample["caption"] for sample in samples})
        truth = torch.tensor([captions.index(sample["caption"]) for sample in samples])
        pixel_values = torch.stack([sample["pixel_values"] for sample in samples]).to(device)
        images = F.normalize(self.model.image_embeddings(pixel_values), dim=-1)
        texts = F.normalize(self.model.text_embeddings(tokenize(self.tokenizer, captions).to(device)), dim=-1)
        nearest = (images @ texts.T).argmax(1).cpu()
        metrics = {"caption_accuracy": float((nearest == truth).float().mean())}
        if self.model.thumbnail_decoder is not None:
            input_ids = tokenize(self.tokenizer, [sample["caption"] for sample in samples]).to(device)
            states = self.model.clip.text_model(input_ids=input_ids).last_hidden_state
            error = thumbnail_error(self.model.thumbnail_decoder(states), pixel_values)
            metrics["thumbnail_error"] = float(error.mean())
        return Validation(metrics=metrics)

    def export(self, folder: Path) -> None:
        """Write `tokenizer`, `text_encoder` and, after contrastive training, both towers as `clip`."""
        self.tokenizer.save_pretrained(folder / "tokenizer")
        text_model = self.model
        if isinstance(self.model, ContrastiveModel):
            self.model.clip.save_pretrained(folder / "clip")
            text_model = self.model.clip.text_model
        cast(CLIPTextModel, text_model).save_pretrained(folder / "text_encoder")
