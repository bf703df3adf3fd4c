"""The card of a model that is shipped: what its template asks for beyond that of any pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sd_pipeline import SDPipeline
from sd_pipeline.publishing.model_card import model_card, without_local_paths
from sd_pipeline.publishing.stock_layout import is_stock
from training.engine.run_folder import RunFolder
from training.release.added_results import NOTHING_MEASURED
from training.release.measured_score import MeasuredScore
from training.release.run_card import FinishedRun

_MODEL_OF = {"text_encoder": "text_encoder", "autoencoder": "vae", "diffusion": "unet"}


def release_card(
    template: Path,
    finished: FinishedRun,
    pipe: SDPipeline,
    output: Path,
    prompts: Sequence[str],
    memorisation: str,
    measured: MeasuredScore | None = None,
) -> str:
    """Write the card.

    Args:
        template (`Path`): Such as `model_cards/shapes-64.md`.
        finished (`FinishedRun`): What is known of the run.
        pipe (`SDPipeline`): What is released.
        output (`Path`): Where it is released, as the user gave it.
        prompts (sequence of `str`): Those of the samples, at least one.
        memorisation (`str`): What a search for the samples among the training images has found.
        measured (`MeasuredScore`, *optional*): Its score.

    Returns:
        `str`: Markdown with YAML front matter.

    Raises:
        ValueError: If the template asks for something else.
        OSError: If it cannot be read.
    """
    name, repository = output.name, without_local_paths(output.as_posix())
    metadata = {"widget": [{"text": prompt} for prompt in prompts], **finished.metadata(), "license": "apache-2.0"}
    score = {"score": NOTHING_MEASURED, "command": ""}
    if measured is not None:
        metadata["model-index"] = measured.model_index(name)
        score["score"] = measured.tables()
        score["command"] = f"This command gives these numbers:\n\n```\n{measured.command(repository)}\n```"
    *_, height, width = pipe.latents_shape(1, None, None)
    return model_card(
        template,
        name=name,
        repository=repository,
        example_prompt=prompts[0],
        loads_in_diffusers=all(is_stock(name, component) for name, component in pipe.components.items()),
        recommended_call=pipe.config["recommended_call"],
        config=finished.config,
        metadata=metadata,
        fields={
            **finished.fields(),
            **score,
            "memorisation": memorisation,
            "size": f"{width * pipe.vae_scale_factor}x{height * pipe.vae_scale_factor}",
            "caption_limit": str(pipe.tokenizer.model_max_length),
        },
    )


def finished_run(
    run: RunFolder,
    pipe: SDPipeline,
    config: Mapping[str, Any],
    num_images: int,
    num_held_out: int,
    told_hardware: str | None = None,
) -> FinishedRun:
    """Gather what is known of the run that a released model comes from.

    Args:
        run (`RunFolder`): The finished run.
        pipe (`SDPipeline`): What is released.
        config (`Mapping[str, Any]`): The configuration of the run.
        num_images (`int`): Training images.
        num_held_out (`int`): Images of the validation.
        told_hardware (`str`, *optional*): On what it was trained, where a person says it better than the records.
    """
    models = {stage: getattr(pipe, name) for stage, name in _MODEL_OF.items()}
    known = {stage: run.record(stage) for stage, model in models.items() if model is not None}
    records = {stage: record for stage, record in known.items() if record is not None}
    parameters = {stage: sum(parameter.numel() for parameter in models[stage].parameters()) for stage in records}
    return FinishedRun(config, records, parameters, num_images, num_held_out, told_hardware)
