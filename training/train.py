"""Train a Stable Diffusion from nothing: one configuration, its stages in order, a repository at the end.

    accelerate launch training/train.py --config configs/digits.yaml [--key.sub=value ...]

Running the same command again resumes, and does nothing where all is finished. `--resume hub:USER/NAME@BRANCH` goes on
from a training state on the Hub. How the run stands is in `OUTPUT_DIR/status.json`; exit codes: 0 finished, 1 failed,
2 bad input, 75 stopped by a signal after saving, 76 trained, but the push to the Hub is pending.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from sd_pipeline.publishing.hub_spool import WHEN_SENT
from sd_pipeline.publishing.model_card import without_local_paths
from sd_pipeline.publishing.repository_files import RepositoryError
from training.background_pushes import BackgroundPushes
from training.config import STAGES, ConfigError, TrainConfig
from training.config_io import check_resumable, config_to_yaml, find_output_dir, parse_config, read_yaml
from training.data.captioned_images import CaptionedImages
from training.data.errors import DataError
from training.data.latent_identity import check_cache_folder, fingerprint_of
from training.engine.checkpointing import CheckpointError, write_text
from training.engine.disk_space import is_full_disk
from training.engine.interruption import RunStopped, StopSignal
from training.engine.run_folder import RunFolder
from training.engine.run_lock import RunFolderError
from training.engine.run_status import RunState, write_status
from training.engine.trackers import check_installed, start_trackers
from training.published_state import HubState, fetch_state, split_resume
from training.publishing import check_hub, publish
from training.stages import build_task, load_data, start_accelerator, train_stage
from training.tasks.model_check import check_models
from training.tasks.pretrained import load_pretrained

_FULL_DISK = "the training states that were written stand; free some space and run the same command again"


def main(arguments: Sequence[str]) -> int:
    """Run the command line, write `status.json` and return the exit code."""
    folder = None  # only a folder whose lock is ours is written into
    try:
        with StopSignal() as stop_signal:
            source, arguments = split_resume(arguments)
            output_dir = find_output_dir(arguments)
            folder = None if output_dir is None else own_folder(output_dir)
            config = parse_config(arguments)
            folder = folder or own_folder(Path(config.output_dir))
            if source is not None:
                resume_from_hub(source, config, folder)
            train(config, folder, stop_signal)
            return finish(folder, *publish(config, folder)) if is_main_process() else 0
    except (ConfigError, DataError, CheckpointError, RepositoryError, RunFolderError) as error:
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


def resume_from_hub(source: HubState, config: TrainConfig, folder: RunFolder) -> None:
    """Fetch a training state, in one of the processes, before any looks into the folder."""
    accelerator = start_accelerator(config)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            fetch_state(source, config, folder)


def train(config: TrainConfig, folder: RunFolder, stop_signal: StopSignal) -> None:
    """Train what is not finished. Everything that can be wrong with the input is found before the first step."""
    disable_progress_bar()  # that of writing a model, not that of training
    if folder.config_file.exists():
        check_resumable(read_yaml(folder.config_file), config)
    pending = [s for s in config.stages if not folder.is_finished(s, config.stage(s).max_train_steps)]
    if not pending:
        return
    check_order(config, folder, pending)
    check_hub(config)
    finished = [stage for stage in STAGES if folder.record(stage) is not None]
    check_models(config, finished, load_pretrained(config))
    check_installed(config.trackers)
    datasets = load_data(config)
    if "diffusion" in pending and config.diffusion.cache_latents and isinstance(datasets[0], CaptionedImages):
        check_cache_folder(Path(config.latent_cache_dir).expanduser(), fingerprint_of(datasets[0]))
    accelerator = start_accelerator(config)
    if accelerator.is_main_process:
        shutil.rmtree(folder.path / WHEN_SENT, ignore_errors=True)  # A push would call the run finished.
        write_status(folder.path, RunState.RUNNING, f"training {', '.join(pending)}")
        write_text(config_to_yaml(config), folder.config_file)
        run_name = folder.path.resolve().name
        start_trackers(accelerator, folder.path / "logs", run_name, without_local_paths(dataclasses.asdict(config)))
    accelerator.wait_for_everyone()
    with BackgroundPushes(config, folder) as pushes:
        for stage in pending:
            build = partial(build_task, stage, config, folder, accelerator.device, *datasets)
            after_save = pushes.after_save if config.hub.sends_while_training else None
            train_stage(stage, config, folder, accelerator, stop_signal, build, datasets, after_save)
    accelerator.end_training()


def check_order(config: TrainConfig, folder: RunFolder, pending: Sequence[str]) -> None:
    """Refuse to train a stage that a later one learned from already, or to go on without one that is begun."""
    perceptual = config.autoencoder.perceptual
    compares = perceptual.scale > 0 and perceptual.model_name_or_path is None
    if compares and "text_encoder" in pending and folder.has_begun("autoencoder"):
        raise ConfigError(
            f"text_encoder would be trained (again), but autoencoder in {folder.path} has begun to learn from its "
            "CLIP (autoencoder.perceptual); take a new output_dir"
        )
    for stage in ("text_encoder", "autoencoder"):
        if stage in pending and folder.has_begun("diffusion"):
            raise ConfigError(
                f"{stage} would be trained (again), but diffusion in {folder.path} has begun to learn from its "
                "output; take a new output_dir"
            )
        if stage not in pending and folder.has_begun(stage) and folder.record(stage) is None:
            raise ConfigError(f"stages = {list(pending)}: {stage} in {folder.path} is not finished; list it before")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
