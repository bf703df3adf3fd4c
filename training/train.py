"""Train a Stable Diffusion from nothing: one configuration, its stages in order, a repository at the end.

    accelerate launch training/train.py --config configs/digits.yaml [--key.sub=value ...]

Running the same command again resumes, and does nothing where all is finished. How the run stands is in
`OUTPUT_DIR/status.json`; exit codes: 0 finished, 1 failed, 2 bad input, 75 stopped by a signal after saving.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs
from transformers.utils.logging import disable_progress_bar

from training.config import STAGES, ConfigError, TrainConfig
from training.config_io import check_resumable, config_to_yaml, find_output_dir, parse_config, read_yaml
from training.data.captioned_images import CaptionedImages
from training.data.catalogue import load_captioned_images
from training.data.errors import DataError
from training.engine.checkpointing import CheckpointError, write_text
from training.engine.disk_space import is_full_disk
from training.engine.distribution import sharded_parts, wants_sharding
from training.engine.interruption import RunStopped, StopSignal
from training.engine.run_folder import RunFolder
from training.engine.run_lock import RunFolderError
from training.engine.run_status import RunState, write_status
from training.engine.state_tensors import load_trained_tensors, trained_tensors
from training.engine.task import Task
from training.engine.tracking import MetricsLog
from training.engine.trainer import Trainer
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.components import load_frozen_models
from training.tasks.diffusion import DiffusionTask
from training.tasks.model_check import check_models
from training.tasks.pretrained import frozen_models_of, load_pretrained
from training.tasks.text_encoder import TextEncoderTask

_FULL_DISK = "the training states that were written stand; free some space and run the same command again"


def main(arguments: Sequence[str]) -> int:
    """Run the command line, write `status.json` and return the exit code."""
    folder = None  # only a folder whose lock is ours is written into
    try:
        with StopSignal() as stop_signal:
            output_dir = find_output_dir(arguments)
            folder = None if output_dir is None else own_folder(output_dir)
            config = parse_config(arguments)
            folder = folder or own_folder(Path(config.output_dir))
            train(config, folder, stop_signal)
            return finish(folder, RunState.FINISHED, f"finished: {', '.join(config.stages)}")
    except (ConfigError, DataError, CheckpointError, RunFolderError) as error:
        return finish(folder, RunState.BAD_INPUT, str(error))
    except RunStopped as stopped:
        return finish(folder, RunState.STOPPED, str(stopped))
    except FloatingPointError as error:
        return finish(folder, RunState.FAILED, str(error))
    except (Exception, KeyboardInterrupt) as error:
        if folder is not None and is_full_disk(error):
            return finish(folder, RunState.FAILED, f"no space left on the disk of {folder.path}; {_FULL_DISK}")
        finish(folder, RunState.FAILED, f"{error.__class__.__name__}: {error}")
        raise
    finally:
        if folder is not None:
            folder.release()


def own_folder(output_dir: Path) -> RunFolder:
    """Take the folder of the run, so that no second process writes into it.

    Raises:
        RunFolderError: If it cannot be written, holds something else or belongs to a run that is going on.
    """
    folder = RunFolder(output_dir)
    folder.check_usable()
    if is_main_process():
        folder.lock()
    return folder


def is_main_process() -> bool:
    """Say whether this is the first of all processes, before they are joined."""
    return os.environ.get("RANK", "0") == "0"


def finish(folder: RunFolder | None, state: RunState, message: str) -> int:
    """Say how the run ended, once for all processes."""
    if is_main_process():
        print(message, file=sys.stdout if state is RunState.FINISHED else sys.stderr, flush=True)
        if folder is not None:
            try:
                write_status(folder.path, state, message)
            except OSError as error:
                print(f"status.json could not be written: {error}", file=sys.stderr, flush=True)
    return state.exit_code or 0


def train(config: TrainConfig, folder: RunFolder, stop_signal: StopSignal) -> None:
    """Train what is not finished. Everything that can be wrong with the input is found before the first step."""
    disable_progress_bar()  # that of writing a model, not that of training
    if folder.config_file.exists():
        check_resumable(read_yaml(folder.config_file), config)
    pending = [s for s in config.stages if not folder.is_finished(s, config.stage(s).max_train_steps)]
    if not pending:
        return
    check_order(folder, pending)
    finished = [stage for stage in STAGES if folder.record(stage) is not None]
    check_models(config, finished, load_pretrained(config))
    dataset, validation_dataset = load_data(config)
    accelerator = start_accelerator(config)
    if accelerator.is_main_process:
        write_status(folder.path, RunState.RUNNING, f"training {', '.join(pending)}")
        write_text(config_to_yaml(config), folder.config_file)
        accelerator.init_trackers("sd_pipeline")
    accelerator.wait_for_everyone()
    for stage in pending:
        parts = (stage, config, folder, accelerator.device, dataset, validation_dataset)
        train_stage(stage, config, folder, accelerator, stop_signal, partial(build_task, *parts))
    accelerator.end_training()


def check_order(folder: RunFolder, pending: Sequence[str]) -> None:
    """Refuse to train a stage that the diffusion model learned from already, or to go on without one that is begun."""
    for stage in ("text_encoder", "autoencoder"):
        if stage in pending and folder.has_begun("diffusion"):
            raise ConfigError(
                f"{stage} would be trained (again), but diffusion in {folder.path} has begun to learn from its "
                "output; take a new output_dir"
            )
        if stage not in pending and folder.has_begun(stage) and folder.record(stage) is None:
            raise ConfigError(f"stages = {list(pending)}: {stage} in {folder.path} is not finished; list it before")


def load_data(config: TrainConfig) -> tuple[CaptionedImages, CaptionedImages | None]:
    """Load the training images and, if there are any, the held-out ones."""
    arguments = {**dataclasses.asdict(config.data), "seed": config.seed}
    del arguments["dataloader_num_workers"]
    return load_captioned_images("train", **arguments), load_captioned_images("validation", **arguments)


def start_accelerator(config: TrainConfig) -> Accelerator:
    """Set up device, processes, precision and trackers; the configuration wins over the launcher's flags."""
    if config.mixed_precision == "fp16" and wants_sharding():
        raise ConfigError("mixed_precision = 'fp16': must be no or bf16 with FSDP, which has no gradient scaler")
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ConfigError(
            "the launcher asks for DeepSpeed, which is not supported; configs/accelerate/fsdp2.yaml shards too"
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.allow_tf32
    try:
        return Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=str(config.mixed_precision),
            # The trainer accumulates by itself; an explicit plugin keeps the launcher's setting out.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            # The main process validates and exports alone; the others may have to wait for long.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
            log_with=None if config.report_to == "none" else config.report_to,
            project_dir=str(Path(config.output_dir) / "logs"),
        )
    except ValueError as error:
        raise ConfigError(f"mixed_precision = {config.mixed_precision!r}: {error}") from error


def train_stage(
    stage: str,
    config: TrainConfig,
    folder: RunFolder,
    accelerator: Accelerator,
    stop_signal: StopSignal,
    build_task: Callable[[], Task],
) -> None:
    """Train one stage from its newest training state, and put its output in place."""
    started = time.monotonic()
    task = build_task()
    trainer = Trainer(
        task,
        config.stage(stage),
        accelerator,
        folder.stage(stage),
        MetricsLog(folder.metrics_file),
        stop_signal,
        seed=config.seed,
        config=dataclasses.asdict(config),
        check_resumable=lambda saved, place: check_resumable(saved, config, place),
        num_workers=config.data.dataloader_num_workers,
    )
    before = time.monotonic() - started
    trainer.fit()
    if sharded_parts(task.model):
        # An export needs whole weights, which a sharded network cannot be turned back into.
        weights = trained_tensors(task.model)
        task = build_task()
        load_trained_tensors(task.model, weights)
    if accelerator.is_main_process:
        folder.finish(stage, task.export, trainer.step, before + trainer.seconds)
    accelerator.wait_for_everyone()


def build_task(
    stage: str,
    config: TrainConfig,
    folder: RunFolder,
    device: torch.device,
    dataset: CaptionedImages,
    validation_dataset: CaptionedImages | None,
) -> Task:
    """Build what a stage trains, upon what the earlier stages have made."""
    if stage == "text_encoder":
        return TextEncoderTask(config, dataset, validation_dataset)
    if stage == "autoencoder":
        return AutoencoderTask(config, dataset, validation_dataset)
    pretrained = load_pretrained(config)
    if pretrained is not None:
        return DiffusionTask(config, dataset, frozen_models_of(pretrained, device), pretrained)
    made = {s: folder.result(s) if folder.record(s) is not None else None for s in STAGES[:2]}
    frozen = load_frozen_models(made["text_encoder"], made["autoencoder"], device)
    return DiffusionTask(config, dataset, frozen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
