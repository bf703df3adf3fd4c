"""The card of a finished stage and its pictures, beside the weights. Nothing that goes wrong here fails a training."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from sd_pipeline.pipelines.segmentation_overlay import overlay, plain
from sd_pipeline.pretrained_models import PACKAGED_MODELS
from sd_pipeline.publishing.model_card import model_card, without_local_paths
from sd_pipeline.publishing.repository import CARD_FILE
from sd_pipeline.publishing.stock_layout import is_stock
from training.config import TrainConfig
from training.data.held_out_draws import VALIDATION_IMAGES
from training.data.pictures import to_picture
from training.data.training_images import TrainingImages
from training.engine.run_folder import RunFolder
from training.engine.task import Task
from training.evaluation.reconstruction import reconstruct
from training.release.card_sections import (
    curve_section,
    memorisation_section,
    pairs_section,
    samples_section,
)
from training.release.component_card import component_metadata, measured_text, text_encoder_origin, vae_use
from training.release.run_card import FinishedRun, last_validation, results_to_come, used_config
from training.release.samples import beside, generate_samples
from training.release.segmentation_card import network_fields
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.diffusion import DiffusionTask
from training.tasks.inpainting import holed_pictures
from training.tasks.segmentation import VALIDATION_IMAGES as SEGMENTED_IMAGES
from training.tasks.segmentation import SegmentationTask, segment
from training.tasks.text_encoder import TextEncoderTask

CARDS = Path(__file__).parents[1] / "model_cards"
_SAMPLES = 12
_PAIRS = 8
_OVERLAYS = 4
_PROMPTS_TO_TRY = 4
# How plain diffusers finds a model that is no folder of the reader and on no Hub.
_PACKAGED = (
    "\nThe model beneath comes with `sd_pipeline`: plain diffusers takes the path of its folder, which "
    "`sd_pipeline.pretrained_models.packaged_model` returns.\n"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CardMaker:
    """Writes the card of the stage that is being finished.

    Args:
        config (`TrainConfig`): The run.
        run (`RunFolder`): Its folder.
        record (`Mapping[str, Any]`): `step`, `seconds` and `hardware` of this stage.
        dataset (`CaptionedImages` or `LabelledSource`): Training images.
        held_out (as `dataset`, *optional*): Those of the validation.
    """

    config: TrainConfig
    run: RunFolder
    record: Mapping[str, Any]
    dataset: TrainingImages
    held_out: TrainingImages | None

    def write(self, folder: Path, task: Task) -> None:
        """Write the card and its pictures, or warn that there is none.

        Args:
            folder (`Path`): Holds the finished output of the task.
            task (`Task`): With the model as trained.
        """
        task.model.eval()
        try:
            with torch.no_grad():
                if isinstance(task, DiffusionTask):
                    card = self._of_diffusion(folder, task)
                elif isinstance(task, AutoencoderTask):
                    card = self._of_autoencoder(folder, task)
                elif isinstance(task, TextEncoderTask):
                    card = self._of_text_encoder(folder, task)
                elif isinstance(task, SegmentationTask):
                    card = self._of_segmentation(folder, task)
                else:
                    return
            (folder / CARD_FILE).write_text(card, encoding="utf-8")
        except Exception:  # A training is worth more than its card.
            logger.warning("no model card could be written; the weights are whole", exc_info=True)

    def _of_diffusion(self, folder: Path, task: DiffusionTask) -> str:
        settings, path = self.config.diffusion, self.config.diffusion.pretrained_model_name_or_path
        pipe, is_lora = task.pipeline(), settings.lora.rank > 0
        models = {"text_encoder": pipe.text_encoder, "autoencoder": pipe.vae} if path is None else {}
        run = self._finished_run({**models, "diffusion": task.model if path is not None else pipe.unet})
        prompts = task.prompts()[:_SAMPLES] if pipe.tokenizer is not None else []
        *_, height, width = pipe.latents_shape(1, None, None)
        metadata: dict[str, Any] = {"pipeline_tag": "image-to-image"} if settings.inpainting else {}
        if prompts and not settings.inpainting:
            metadata["widget"] = [{"text": prompt} for prompt in prompts[:_PROMPTS_TO_TRY]]
        if path is not None and path not in PACKAGED_MODELS and not Path(path).expanduser().exists():
            metadata |= {"base_model": path, "base_model_relation": "adapter" if is_lora else "finetune"}
        template = "lora.md" if is_lora else "inpainting.md" if settings.inpainting else "pipeline.md"
        everywhere = self._everywhere("diffusion")
        return model_card(
            CARDS / template,
            **everywhere,
            example_prompt=prompts[0] if prompts else None,
            loads_in_diffusers=all(is_stock(name, component) for name, component in pipe.components.items()),
            recommended_call=task.call,
            base_model=None if path is None else without_local_paths(path),
            inpaints=settings.inpainting,
            tags=[*(["lora"] if is_lora else []), *(["inpainting"] if settings.inpainting else [])],
            metadata=metadata | run.metadata(),
            fields={
                **self._fields(folder, run),
                **self._pictures(folder, task, prompts),
                "size": f"{width * pipe.vae_scale_factor}x{height * pipe.vae_scale_factor}",
                "base_place": _PACKAGED if path in PACKAGED_MODELS else "",
                "results": results_to_come(run.config["data"]["dataset"], everywhere["repository"], template),
            },
        )

    def _pictures(self, folder: Path, task: DiffusionTask, prompts: Sequence[str]) -> dict[str, str]:
        pipe, pictures = task.pipeline(), list[Image.Image]()

        def samples() -> str:
            if not self.config.diffusion.inpainting:
                count = len(prompts) or _PAIRS
                pictures.extend(generate_samples(pipe, count, {"prompt": prompts} if prompts else {}))
                of_what = "One picture of each prompt" if prompts else "Pictures without a prompt"
                return samples_section(folder, pictures, prompts or [""] * count, of_what)
            holed = holed_pictures(task.pictures, _PAIRS, self.config.seed)
            own: dict[str, list[Any]] = {"image": holed.pictures, "mask_image": holed.masks}
            own |= {"prompt": holed.captions} if prompts else {}
            filled = generate_samples(pipe, len(holed.pictures), own)
            shown = [beside(*pair) for pair in zip(holed.shown, filled, strict=True)]
            return samples_section(folder, shown, holed.captions, "Training images with a hole, and what fills it")

        def memorisation() -> str:
            if self.config.diffusion.inpainting:
                return "Not looked at: most of an inpainted picture is the picture that was given."
            held_out = None if task.held_out is None else task.held_out.dataset
            return memorisation_section(folder, pictures, task.pictures, held_out)

        return {
            "samples": _attempt("Pictures", samples),
            "memorisation": _attempt("The nearest training images", memorisation),
        }

    def _of_autoencoder(self, folder: Path, task: AutoencoderTask) -> str:
        everywhere, measured = self._everywhere("autoencoder"), last_validation(self.run.metrics_file, "autoencoder")
        run = self._finished_run({"autoencoder": task.vae})
        images, of_what = task.pictures, "training images"
        if task.validation_dataset:
            images, of_what = task.validation_dataset, "held-out images"

        def reconstructions() -> str:
            squares = images.squares()
            pixels = torch.stack([squares[n]["pixel_values"] for n in range(min(_PAIRS, len(squares)))])
            pairs = zip(map(to_picture, pixels), map(to_picture, reconstruct(task.vae, pixels)), strict=True)
            told = f"Above, {of_what}; below, their reconstructions."
            return pairs_section(folder, list(pairs), ("images", "reconstructions"), 120, told)

        config = task.vae.config
        return model_card(
            CARDS / "autoencoder.md",
            **everywhere,
            example_prompt=None,
            metadata=component_metadata("autoencoder", everywhere["name"], self.config.data.dataset, measured)
            | run.metadata(),
            fields={
                **self._fields(folder, run),
                "samples": _attempt("Pictures", reconstructions),
                "vae_use": vae_use(everywhere["repository"], is_stock("vae", task.vae)),
                "channels": str(config["latent_channels"]),
                "factor": str(2 ** (len(config["block_out_channels"]) - 1)),
                "size": f"{self.config.data.resolution}x{self.config.data.resolution}",
                "results": measured_text(measured, min(run.num_held_out, VALIDATION_IMAGES)),
            },
        )

    def _of_text_encoder(self, folder: Path, task: TextEncoderTask) -> str:
        model = getattr(task.model, "clip", task.model)
        everywhere, measured = self._everywhere("text_encoder"), last_validation(self.run.metrics_file, "text_encoder")
        run = self._finished_run({"text_encoder": model})
        caption = next(iter(task.pictures.captions), "")
        return model_card(
            CARDS / "text_encoder.md",
            **everywhere,
            example_prompt=caption,
            metadata=component_metadata("text_encoder", everywhere["name"], self.config.data.dataset, measured)
            | run.metadata(),
            fields={
                **self._fields(folder, run),
                "origin": text_encoder_origin(self.config.text_encoder),
                "vocabulary": f"{len(task.tokenizer):,}",
                "caption_limit": str(task.tokenizer.model_max_length),
                "results": measured_text(measured, min(run.num_held_out, VALIDATION_IMAGES)),
            },
        )

    def _of_segmentation(self, folder: Path, task: SegmentationTask) -> str:
        everywhere, measured = self._everywhere("segmentation"), last_validation(self.run.metrics_file, "segmentation")
        run, dataset = self._finished_run({"segmentation": task.unet}), self.config.data.dataset
        images, of_what = (task.held_out, "held-out images") if task.held_out else (task.source, "training images")
        results = results_to_come(dataset, everywhere["repository"], "segmentation.md")
        validated = measured_text(measured, min(run.num_held_out, SEGMENTED_IMAGES))

        def overlays() -> str:
            pipe, numbers = task.pipeline(), range(min(_OVERLAYS, len(images)))
            pairs = [(plain(image), overlay(image, segment(pipe, image)[1])) for image in map(images.image, numbers)]
            told = f"Above, {of_what}; below, what the network finds in them."
            return pairs_section(folder, pairs, ("images", "objects found"), 200, told)

        return model_card(
            CARDS / "segmentation.md",
            **everywhere,
            example_prompt=None,
            metadata=component_metadata("segmentation", everywhere["name"], dataset, measured) | run.metadata(),
            fields={
                **self._fields(folder, run),
                **network_fields(task.unet, self.config.segmentation, self.config.data.label_type),
                "samples": _attempt("Pictures", overlays),
                "results": f"{results}\n\n### Last validation of the training\n\n{validated}",
            },
        )

    def _everywhere(self, stage: str) -> dict[str, Any]:
        """Make what every card has."""
        name = Path(self.config.output_dir).name
        published = self.config.hub.hub_model_id if stage == self.config.stages[-1] else None
        return {
            "name": name if stage in ("diffusion", "segmentation") else f"{name}: {stage.replace('_', ' ')}",
            "repository": published or self.run.result(stage).as_posix(),
            "config": used_config(dataclasses.asdict(self.config)),
        }

    def _finished_run(self, models: Mapping[str, nn.Module | None]) -> FinishedRun:
        """Gather what is known of the stages that made the models, this one last."""
        *earlier, stage = models
        known = {name: self.run.record(name) for name in earlier if models[name] is not None}
        records = {name: record for name, record in known.items() if record is not None} | {stage: self.record}
        counts = {name: _num_parameters(model) for name, model in models.items() if model is not None}
        num_held_out = 0 if self.held_out is None else len(self.held_out)
        return FinishedRun(dataclasses.asdict(self.config), records, counts, len(self.dataset), num_held_out)

    def _fields(self, folder: Path, run: FinishedRun) -> dict[str, str]:
        curve = partial(curve_section, folder, self.run.metrics_file, list(run.records))
        return {**run.fields(), "curve": _attempt("The training curve", curve)}


def _num_parameters(model: nn.Module) -> int:
    """Count what was trained: of a model with adapters, these."""
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    return sum(trained) or sum(parameter.numel() for parameter in model.parameters())


def _attempt(what: str, make: Callable[[], str]) -> str:
    """Make a part of a card, or say in its place that it could not be made."""
    try:
        return make()
    except Exception as error:  # No part is worth the rest of the card.
        logger.warning("the model card goes without a part: %s", what, exc_info=True)
        return f"{what} could not be made when the training ended ({type(error).__name__})."
