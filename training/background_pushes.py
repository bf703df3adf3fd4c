"""What goes to the Hub while a training goes on: the model as it stands, and training states.

Whatever the Hub does, the training takes no notice; only writing the model takes some of its time. It writes what is
to be sent into `OUTPUT_DIR/outgoing` and the spool. A process of low priority, which is
`sd-pipeline push OUTPUT_DIR`, tries it out and sends it; what it cannot send waits in the spool.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from sd_pipeline.publishing.hub_push import Target
from sd_pipeline.publishing.hub_spool import read_spool, spool_push
from training.config import TrainConfig
from training.engine.checkpointing import list_checkpoints
from training.engine.run_folder import RunFolder
from training.engine.task import Task
from training.published_state import export_state
from training.release.intermediate_card import write_intermediate_card

OUTGOING = "outgoing"
_NICENESS = 10
_SECONDS_TO_END = 10

logger = logging.getLogger(__name__)


class BackgroundPushes:
    """Sends what a run has so far, one push at a time; its `with` block ends the process that sends.

    Args:
        config (`TrainConfig`): The run.
        run (`RunFolder`): Its folder.
    """

    def __init__(self, config: TrainConfig, run: RunFolder) -> None:
        self.config, self.run = config, run
        self._sender: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> BackgroundPushes:
        """Nothing is sent yet."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process that sends, which leaves no half of a push; what it has not sent stays in the spool."""
        if self._sender is not None:
            self._sender.terminate()
            try:
                self._sender.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                self._sender.kill()
                self._sender.wait()

    def after_save(self, task: Task, step: int) -> None:
        """Send the model and the newest training state on disk, unless the last push is still going on.

        Args:
            task (`Task`): With the model as it is to be used.
            step (`int`): Its updates.
        """
        if self._sender is not None and self._sender.poll() is None:
            return
        try:
            if task.name in ("diffusion", "segmentation"):
                self._spool_model(task, step)
            if self.config.hub.hub_strategy == "checkpoint":
                self._spool_state(task.name)
            self._remove_outdated()
            self._send()
        except Exception:  # A training is worth more than a look at it on the way.
            logger.warning("what the training has so far was not sent to the Hub", exc_info=True)

    def _spool_model(self, task: Task, step: int) -> None:
        folder = self._new_folder(f"{task.name}-{step}")
        task.export(folder)
        write_intermediate_card(folder, self.config, step)
        message = f"Model after {step} of {self.config.stage(task.name).max_train_steps} steps"
        self._spool(folder, self.config.hub.hub_training_revision, message)

    def _spool_state(self, stage: str) -> None:
        # The newest whole one: that of this step may still be on its way to the disk.
        checkpoints = list_checkpoints(self.run.stage(stage))
        if not checkpoints:
            return
        folder = self._new_folder(f"{stage}-{checkpoints[-1].name}")
        export_state(folder, self.config, self.run, checkpoints[-1])
        message = f"Training state of {stage}, {checkpoints[-1].name}"
        self._spool(folder, self.config.hub.state_revision, message)

    def _remove_outdated(self) -> None:
        spooled = {push.folder for push in read_spool(self.run.path)}
        for folder in (self.run.path / OUTGOING).glob("*"):
            if f"{OUTGOING}/{folder.name}" not in spooled:
                shutil.rmtree(folder, ignore_errors=True)

    def _new_folder(self, name: str) -> Path:
        folder = self.run.path / OUTGOING / name
        shutil.rmtree(folder, ignore_errors=True)  # Of a run that was killed.
        return folder

    def _spool(self, folder: Path, revision: str, message: str) -> None:
        hub = self.config.hub
        target = Target(str(hub.hub_model_id), revision, hub.hub_private_repo)
        spool_push(self.run.path, f"{OUTGOING}/{folder.name}", target, message, digest=folder.name)

    def _send(self) -> None:
        retries = str(self.config.hub.push_retries)
        command = [sys.executable, "-m", "sd_pipeline.cli", "push", str(self.run.path), "--retries", retries]
        nowhere = subprocess.DEVNULL
        self._sender = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
        psutil.Process(self._sender.pid).nice(_NICENESS)
