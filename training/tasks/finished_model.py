"""What a trained U-Net ends in: a repository of its own, or a file of adapters for the model it started from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import CLIPTextModel

from sd_pipeline import SDInpaintPipeline, SDUNet2DConditionModel
from sd_pipeline.pipelines.scheduler_use import Scheduler
from sd_pipeline.publishing.model_card import model_card, without_local_paths
from sd_pipeline.publishing.repository import CARD_FILE, export_pipeline
from training.config import TrainConfig
from training.tasks.components import FrozenModels
from training.tasks.lora import save_adapters

CARDS = Path(__file__).parents[2] / "model_cards"


@dataclass(frozen=True)
class FinishedModel:
    """A trained U-Net and what goes with it.

    Args:
        config (`TrainConfig`): The run.
        unet (`SDUNet2DConditionModel`): As trained.
        sampler (`Scheduler`): The recommended one.
        others (`FrozenModels`): What it was trained beside.
        call (`Mapping[str, int | float]`): The recommended call.
        example_prompt (`str`, *optional*): For the card; `None` of an unconditional model.
    """

    config: TrainConfig
    unet: SDUNet2DConditionModel
    sampler: Scheduler
    others: FrozenModels
    call: Mapping[str, int | float]
    example_prompt: str | None

    @property
    def base_model(self) -> str | None:
        """The model that the run went on from, as the Hub may know it: a name, or the last part of a local path."""
        path = self.config.diffusion.pretrained_model_name_or_path
        return None if path is None else without_local_paths(path)

    def card(self, template: str, loads_in_diffusers: bool = True, tags: Sequence[str] = ()) -> str:
        """Fill in a card."""
        is_inpainting = self.config.diffusion.inpainting
        return model_card(
            CARDS / template,
            name=Path(self.config.output_dir).name,
            repository=self.config.hub.hub_model_id or f"{self.config.output_dir}/pipeline",
            example_prompt=self.example_prompt,
            loads_in_diffusers=loads_in_diffusers,
            recommended_call=self.call,
            config=dataclasses.asdict(self.config),
            base_model=self.base_model,
            tags=tags,
            metadata={"pipeline_tag": "image-to-image"} if is_inpainting else None,
        )


def export_model(folder: Path, finished: FinishedModel, pretrained: SDInpaintPipeline | None) -> None:
    """Write the repository, with its card.

    Args:
        folder (`Path`): Where to.
        finished (`FinishedModel`): What was trained.
        pretrained (`SDInpaintPipeline`, *optional*): What the run went on from; its safety checker is kept.
    """
    others = finished.others
    is_stock = others.tokenizer is not None and others.vae is not None
    is_stock = is_stock and finished.sampler.config["prediction_type"] != "mean"
    export_pipeline(
        folder,
        unet=finished.unet,
        scheduler=finished.sampler,
        vae=others.vae,
        text_encoder=others.text_encoder,
        tokenizer=others.tokenizer,
        safety_checker=None if pretrained is None else pretrained.safety_checker,
        feature_extractor=None if pretrained is None else pretrained.feature_extractor,
        recommended_call=finished.call,
        card=finished.card("inpainting.md" if finished.config.diffusion.inpainting else "pipeline.md", is_stock),
    )


def export_adapters(folder: Path, finished: FinishedModel, text_encoder: CLIPTextModel | None) -> None:
    """Write the file of the adapters, with its card.

    Args:
        folder (`Path`): Where to.
        finished (`FinishedModel`): What was trained.
        text_encoder (`CLIPTextModel`, *optional*): With adapters, if it has some.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_adapters(folder, finished.unet, text_encoder)
    (folder / CARD_FILE).write_text(finished.card("lora.md", tags=["lora"]), encoding="utf-8")
