"""What the card of a finished run says whatever the model: data, cost, licence, and how to train it again."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sd_pipeline.publishing.model_card import markdown_table, without_local_paths
from training.release.added_results import NOTHING_MEASURED
from training.release.energy import consumption, energy_text, hardware_line
from training.release.training_data import hub_dataset, license_text, training_data_text

_VERSIONS_OF = ("sd_pipeline", "torch", "diffusers", "transformers", "accelerate", "peft", "datasets")


@dataclass(frozen=True)
class FinishedRun:
    """What is known when a stage is finished.

    Args:
        config (`Mapping[str, Any]`): The configuration, plain values.
        records (`Mapping[str, Mapping[str, Any]]`): `step`, `seconds` and `hardware` of each stage that made it.
        parameters (`Mapping[str, int]`): Trained numbers of each of these stages.
        num_images (`int`): Training images.
        num_held_out (`int`): Images of the validation.
        told_hardware (`str`, *optional*): What it was trained on, where a person says it better than the records.
    """

    config: Mapping[str, Any]
    records: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, int]
    num_images: int
    num_held_out: int
    told_hardware: str | None = None

    def metadata(self) -> dict[str, Any]:
        """Make what the Hub is to know of licence, data and emissions; what is not known is left out."""
        entries: dict[str, Any] = {}
        if (license_ := (self.config.get("card") or {}).get("license")) is not None:
            entries["license"] = license_
        if (dataset := hub_dataset(self.config["data"]["dataset"])) is not None:
            entries["datasets"] = [dataset]
        records = list(self.records.values())
        if (spent := consumption(records)) is not None:
            is_finetuned = self.config["diffusion"].get("pretrained_model_name_or_path") is not None
            entries["co2_eq_emissions"] = {
                "emissions": float(f"{spent.grams:.3g}"),
                "source": "estimated as time x power x carbon intensity (Green Algorithms)",
                "training_type": "fine-tuning" if is_finetuned else "pre-training",
                "hardware_used": self.told_hardware or hardware_line(records[-1]["hardware"]),
            }
        return entries

    def fields(self) -> dict[str, str]:
        """Fill in the placeholders that all templates have."""
        return {
            "training_data": training_data_text(self.config, self.num_images, self.num_held_out),
            "stages": stages_table(self.records, self.parameters, self.config),
            "cost": self._cost(),
            "license": license_text(self.config),
            "reproduce": self._reproduce(),
        }

    def _cost(self) -> str:
        records = list(self.records.values())
        lines = dict.fromkeys(hardware_line(record["hardware"]) for record in records if "hardware" in record)
        told = self.told_hardware or "; ".join(lines)
        hardware = f"Hardware: {told}." if told else "The hardware was not recorded."
        return f"{hardware}\n\n{energy_text(records)}"

    def _reproduce(self) -> str:
        hardware = list(self.records.values())[-1].get("hardware")
        processes = f"--num_processes {hardware['num_processes']} " if hardware else ""
        return (
            "In a checkout of `sd_pipeline`, with the configuration below in `run.yaml`:\n\n"
            f"```\naccelerate launch {processes}training/train.py --config run.yaml\n```\n\n"
            f"Everything random follows from the seed, {self.config['seed']}; other machines and versions round "
            f"otherwise. It was trained with {versions()}. Of paths on the machine of the "
            "training, the last part is told."
        )


def versions() -> str:
    """List the versions of what trains."""
    found = [f"Python {platform.python_version()}"]
    for name in _VERSIONS_OF:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def used_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a configuration what a run did not use.

    These are the blocks of another kind of run, and networks that it did not build as it went on from a finished one.

    Args:
        config (`Mapping[str, Any]`): The configuration of the run.
    """
    others = ("text_encoder", "autoencoder", "diffusion", "evaluation")
    if config["stages"] == ["segmentation"]:
        return {key: value for key, value in config.items() if key not in others}
    used = {key: value for key, value in config.items() if key != "segmentation"}
    if config["diffusion"].get("pretrained_model_name_or_path") is not None:
        del used["autoencoder"]
        used["diffusion"] = {key: value for key, value in config["diffusion"].items() if key != "unet"}
    return used


def stages_table(
    records: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, int], config: Mapping[str, Any]
) -> str:
    """Tell how long every stage was trained.

    Args:
        records (`Mapping[str, Mapping[str, Any]]`): `step` and `seconds` of each stage.
        parameters (`Mapping[str, int]`): Numbers that each of these stages trained.
        config (`Mapping[str, Any]`): The configuration of the run.

    Returns:
        `str`: A table in Markdown.
    """
    rows = []
    for stage, record in records.items():
        batch = str(config.get(stage, {}).get("train_batch_size", "not recorded"))
        time = str(timedelta(seconds=round(record["seconds"])))
        rows.append([stage, f"{parameters[stage]:,}", f"{record['step']:,}", batch, time])
    return markdown_table(["stage", "parameters", "updates", "images an update and process", "time"], rows)


def last_validation(file: Path, stage: str) -> dict[str, float]:
    """Read the last validation of a stage.

    Args:
        file (`Path`): `metrics.jsonl` of the run.
        stage (`str`): Its name.

    Returns:
        `dict[str, float]`: What was measured, by name; empty where there is nothing.
    """
    prefix, found = "validation_", {}
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return {}
    for row in rows:
        measured = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
        if row.get("stage") == stage and measured:
            found = measured
    return found


def results_to_come(dataset: str, repository: str, template: str) -> str:
    """Say that nothing has been measured, and what measures it.

    Args:
        dataset (`str`): `data.dataset` of the configuration.
        repository (`str`): The model, as it is given to `from_pretrained`.
        template (`str`): Name of the card's template.
    """
    suites = {"digits": "--suite digits", "shapes": "--suite shapes"}
    suite = suites.get(dataset, "--suite captions --dataset DATASET") if template == "pipeline.md" else None
    if template == "inpainting.md" and dataset == "shapes":
        suite = "--suite shapes-inpaint"
    if template == "segmentation.md":
        suite = f"--suite segmentation --dataset {'cells' if dataset == 'cells' else 'DATASET'}"
    if suite is None:
        return NOTHING_MEASURED
    return (
        f"{NOTHING_MEASURED} In a checkout of `sd_pipeline`, this command measures the model and puts the "
        f"results here, with `--card`:\n\n```\naccelerate launch training/evaluate_model.py --model "
        f"{shlex.quote(without_local_paths(repository))} {suite} --card\n```"
    )
