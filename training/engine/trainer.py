"""THE training loop. It optimises any task, and knows none."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader

from training.config import StageConfig
from training.engine.agreement import agree
from training.engine.checkpoint_writer import CheckpointWriter
from training.engine.checkpointing import CheckpointError, newest_checkpoint, read_checkpoint, remove_leftovers
from training.engine.ema import AveragedWeights, as_evaluated
from training.engine.interruption import RunStopped, StopSignal, outlive_signals
from training.engine.memory import keep_freed_memory
from training.engine.non_finite import (
    MAX_SKIPPED_IN_A_ROW,
    MicroBatch,
    append_record,
    describe,
    failure_message,
    is_non_finite,
)
from training.engine.optimisation import Optimisation
from training.engine.random_streams import stream_key
from training.engine.sampling_order import GlobalBatchSampler, order_of
from training.engine.step_numbers import StepNumbers
from training.engine.task import Batch, Task
from training.engine.tracking import MetricsLog, StageReport
from training.engine.training_state import gather_state, restore_state
from training.engine.validation_loss import validated


class Trainer:
    """Trains one task, from its newest training state on.

    The order within a step: accumulate gradients, clip, update, average, log, validate, save, stop if asked.

    Args:
        task (`Task`): What is trained.
        settings (`StageConfig`): How: the stage's block of the configuration.
        accelerator (`accelerate.Accelerator`): Device, processes, precision and trackers.
        folder (`Path`): Folder of the stage; its training states go there.
        metrics (`MetricsLog`): Where its rows go.
        stop_signal (`StopSignal`): Asked after every step.
        seed (`int`): The seed of the run.
        config (mapping): The configuration of the run; written beside every training state.
        check_resumable (callable): Refuses the configuration of a training state that is of another run.
        num_workers (`int`): Processes that load data; 0 loads in this one.
        after_save (callable, *optional*): Called in the main process with the task, its model averaged, and the step
            whenever a state has been saved and training goes on.
    """

    def __init__(
        self,
        task: Task,
        settings: StageConfig,
        accelerator: Accelerator,
        folder: Path,
        metrics: MetricsLog,
        stop_signal: StopSignal,
        seed: int,
        config: Mapping[str, Any],
        check_resumable: Callable[[Mapping[str, Any], str], None],
        num_workers: int = 0,
        after_save: Callable[[Task, int], None] | None = None,
    ) -> None:
        self.task = task
        self.settings = settings
        self.accelerator = accelerator
        self.folder = folder
        self.metrics = metrics
        self.stop_signal = stop_signal
        self.seed = seed
        self.config = config
        self.check_resumable = check_resumable
        self.num_workers = num_workers
        self.after_save = after_save
        self.step = 0
        self.seconds = 0.0
        self._skipped_in_a_row = 0

        self.network = Optimisation(task.model, task.parameter_groups(), settings, accelerator, task.shardable)
        self.networks = {"model": self.network}
        if task.adversary is not None:
            groups = task.adversary_parameter_groups()
            self.networks["adversary"] = Optimisation(task.adversary, groups, settings, accelerator)
        self.average = AveragedWeights(task.model, settings.ema_decay) if settings.use_ema else None
        self.numbers = StepNumbers(accelerator, task.num_timesteps)
        self._writer = CheckpointWriter(folder, settings.checkpoints_total_limit)

    @property
    def global_batch_size(self) -> int:
        """Samples of one update, over all processes and micro-batches."""
        settings = self.settings
        return settings.train_batch_size * settings.gradient_accumulation_steps * self.accelerator.num_processes

    def fit(self) -> None:
        """Train to `max_train_steps`; afterwards the task's model holds the averaged weights, in evaluation mode.

        Raises:
            CheckpointError: If all training states are damaged, or belong to another run or global batch size.
            FloatingPointError: If a loss or a gradient is not finite, and the settings say to stop.
            RunStopped: If a signal came; the state has been saved.
        """
        keep_freed_memory()
        self._resume()
        report = StageReport(
            self.task.name,
            self.step,
            self.settings.max_train_steps,
            self.global_batch_size,
            self.accelerator,
            self.metrics,
            self.folder / "validation",
        )
        for network in self.networks.values():
            network.wrapped.train()
        try:
            with self.stop_signal.deferred():
                self._train(report)
        finally:
            report.close()
            self._writer.close()
        if self.average is not None:
            self.average.copy_to_model()
        self.task.model.eval()

    def _train(self, report: StageReport) -> None:
        sampler = self._sampler()
        batches = self._batches(sampler)
        seconds_before, started = self.seconds, time.monotonic()
        while self.step < self.settings.max_train_steps:
            micro_batches = self._accumulate(sampler, batches)
            norms = {name: network.clip_gradients() for name, network in self.networks.items()}
            # Infinite gradients are the business of the gradient scaler, where there is one.
            judged = [] if self.accelerator.scaler is not None else list(norms.values())
            failed, stop = agree(
                self.accelerator, is_non_finite(micro_batches, judged), self.stop_signal.received is not None
            )
            if failed:
                self._write_down(micro_batches, norms, report)
            self._skipped_in_a_row = self._skipped_in_a_row + 1 if failed else 0
            for name, network in self.networks.items():
                rests = name == "adversary" and not any("discriminator_loss" in m.losses for m in micro_batches)
                network.update(self.step + 1, is_skipped=failed or rests)
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.update()
            if self.average is not None and not failed:
                self.average.step()
            if not failed:
                self.numbers.add(micro_batches)
            self.step += 1
            self.seconds = seconds_before + time.monotonic() - started
            report.advance()
            self._finish_step(report, None if failed else micro_batches, norms, stop)
        self._writer.wait()

    def _finish_step(
        self,
        report: StageReport,
        micro_batches: list[MicroBatch] | None,
        norms: Mapping[str, torch.Tensor],
        stop: bool,
    ) -> None:
        """Log, validate, save and stop, where each is due."""
        settings = self.settings
        is_last = self.step == settings.max_train_steps
        if micro_batches is not None and (is_last or self.step % settings.logging_steps == 0):
            report.row(self.step, self.numbers.row(micro_batches, norms, self.network.learning_rate))
        if is_last or (settings.validation_steps is not None and self.step % settings.validation_steps == 0):
            report.validation(self.step, validated(self.task, self.step, self.accelerator, self.average))
        self._writer.check()
        if stop or is_last or self.step % settings.checkpointing_steps == 0:
            self._save()
            if self.after_save is not None and self.accelerator.is_main_process and not (stop or is_last):
                with as_evaluated(self.task.model, self.average):
                    self.after_save(self.task, self.step)
        if stop and not is_last:
            self._writer.wait()
            reason = f"stopped by {self.stop_signal.received or 'a signal to another process'}"
            raise RunStopped(f"{reason} at {self.task.name} step {self.step}; run the same command again to resume")

    def _sampler(self) -> GlobalBatchSampler:
        return GlobalBatchSampler(
            order=order_of(self.task.dataset, self.seed),
            batch_size=self.settings.train_batch_size,
            accumulation=self.settings.gradient_accumulation_steps,
            rank=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            start_step=self.step,
            max_steps=self.settings.max_train_steps,
        )

    def _batches(self, sampler: GlobalBatchSampler) -> Iterator[Batch]:
        loader = DataLoader(
            self.task.dataset,
            batch_sampler=sampler,
            collate_fn=self.task.collate,
            num_workers=self.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=outlive_signals,
        )
        return iter(loader)

    def _accumulate(self, sampler: GlobalBatchSampler, batches: Iterator[Batch]) -> list[MicroBatch]:
        """Accumulate the gradients of one global batch, in both networks if there are two."""
        accelerator, accumulation = self.accelerator, self.settings.gradient_accumulation_steps
        adversary = self.networks.get("adversary")
        micro_batches = []
        for number in range(accumulation):
            is_last = number == accumulation - 1
            # Dropout and the like, which no sample number keys: a resumed run draws the same.
            names = (self.task.name, self.step, accelerator.process_index, number)
            torch.manual_seed(stream_key(self.seed, "step", *names) % 2**63)
            batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in next(batches).items()}
            inputs = self.task.prepare_batch(batch, self.step)
            with self.network.accumulating(is_last), accelerator.autocast():
                outputs = self.network.wrapped(**inputs)
                losses = {name: value.float() for name, value in outputs.items() if value.ndim == 1}
                accelerator.backward(losses["loss"].mean() / accumulation)
            against = None if adversary is None else self.task.adversary_batch(inputs, outputs)
            if adversary is not None and against is not None:
                with adversary.accumulating(is_last), accelerator.autocast():
                    answers = {name: value.float() for name, value in adversary.wrapped(**against).items()}
                    accelerator.backward(answers["loss"].mean() / accumulation)
                losses |= {f"discriminator_{name}": value for name, value in answers.items()}
            detached = {name: value.detach() for name, value in losses.items()}
            micro_batches.append(MicroBatch(sampler.keys(self.step, number), batch.get("timesteps"), detached))
        return micro_batches

    def _write_down(
        self, micro_batches: list[MicroBatch], norms: Mapping[str, torch.Tensor], report: StageReport
    ) -> None:
        """Write down what was not finite; then stop, unless the settings say to skip the update."""
        modules = {name: network.model for name, network in self.networks.items()}
        precision = str(self.accelerator.mixed_precision)
        record = describe(self.step, micro_batches, modules, norms, precision, self.task.sample_name)
        file = self.folder / "non_finite.jsonl"
        if self.accelerator.is_main_process:
            append_record(record, file)
        if self.settings.on_non_finite == "stop" or self._skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise FloatingPointError(failure_message(self.task.name, record, file))
        report.skipped(self.step + 1)

    def _save(self) -> None:
        """Gather the state from all processes, and let the main one write it."""
        values = {
            "stage": self.task.name,
            "seconds": self.seconds,
            "global_batch_size": self.global_batch_size,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "config": dict(self.config),
        }
        state = gather_state(self.networks, self.average, self.accelerator.scaler, values)
        if self.accelerator.is_main_process:
            self._writer.save(self.step, state)

    def _resume(self) -> None:
        """Load the newest whole training state, if there is one."""
        found: list[Path | None] = [None]
        if self.accelerator.is_main_process:
            remove_leftovers(self.folder)
            found = [newest_checkpoint(self.folder)]
        (checkpoint,) = broadcast_object_list(found) if self.accelerator.num_processes > 1 else found
        if checkpoint is None:
            return
        state = read_checkpoint(checkpoint)
        self.check_resumable(state.values["config"], str(checkpoint))
        saved_size = state.values["global_batch_size"]
        if saved_size != self.global_batch_size:
            raise CheckpointError(
                f"{checkpoint} was trained with {saved_size} images an update, but processes x "
                f"{self.task.name}.gradient_accumulation_steps x {self.task.name}.train_batch_size is now "
                f"{self.global_batch_size}; the product must stay {saved_size}"
            )
        self.step = state.values["step"]
        self.seconds = state.values["seconds"]
        restore_state(state, self.networks, self.average, self.accelerator.scaler)
        self.accelerator.print(f"{self.task.name}: goes on from {checkpoint.name}")
