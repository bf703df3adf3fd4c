"""The card of a model that is published before its training has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sd_pipeline.publishing.model_card import model_card, without_local_paths
from sd_pipeline.publishing.repository import CARD_FILE
from training.config import TrainConfig
from training.release.component_card import component_metadata

_TEMPLATE = Path(__file__).parents[2] / "model_cards" / "intermediate.md"


def write_intermediate_card(folder: Path, config: TrainConfig, step: int) -> None:
    """Write the card of the diffusion model, or of the segmentation, as it is on the way.

    Args:
        folder (`Path`): Holds the model.
        config (`TrainConfig`): The run, which publishes.
        step (`int`): Updates it has been trained for.
    """
    hub, base = config.hub, config.diffusion.pretrained_model_name_or_path
    max_train_steps = config.stage(config.stages[-1]).max_train_steps
    repository, revision = str(hub.hub_model_id), hub.hub_training_revision
    metadata: dict[str, Any] = {} if config.card.license is None else {"license": config.card.license}
    place = f'"{repository}", revision="{revision}"'
    use = f"pipe = PIPELINE.from_pretrained({place})"
    if config.diffusion.lora.rank > 0:
        use = f'pipe = PIPELINE.from_pretrained("{without_local_paths(base)}")\npipe.load_lora_weights({place})'
    pipe_class = "SDInpaintPipeline" if config.diffusion.inpainting else "SDPipeline"
    if config.segments:
        known = component_metadata("segmentation", repository, "", {})
        pipe_class, metadata = "SegmentationPipeline", {**metadata, **known, "tags": [*known["tags"], "intermediate"]}
    use = f"from sd_pipeline import PIPELINE\n\n{use}".replace("PIPELINE", pipe_class)
    card = model_card(
        _TEMPLATE,
        name=f"{repository.split('/')[1]}: after {step:,} of {max_train_steps:,} updates",
        repository=repository,
        example_prompt=None,
        base_model=None if base is None else without_local_paths(base),
        tags=["intermediate"],
        metadata=metadata,
        fields={
            "use": use,
            "kind": "segmentation U-Net" if config.segments else "diffusion model",
            "step": f"{step:,}",
            "max_train_steps": f"{max_train_steps:,}",
            "finished_revision": hub.hub_revision,
        },
    )
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
