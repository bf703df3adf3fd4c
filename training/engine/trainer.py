"""THE training loop. It optimises any task, and knows none."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch.utils.data import DataLoader

from training.config import StageConfig
from training.engine.checkpointing import (
    CheckpointError,
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    load_optimizer_tensors,
    load_trained_tensors,
    optimizer_tensors,
    save_checkpoint,
    trained_tensors,
)
from training.engine.ema import AveragedWeights
from training.engine.interruption import RunStopped, StopSignal
from training.engine.random_streams import stream_key
from training.engine.sampling_order import GlobalBatchSampler, order_of
from training.engine.task import Batch, Task
from training.engine.tracking import MetricsLog, StageReport


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
        num_workers (`int`): Processes that load data; 0 loads in this one.
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
        num_workers: int = 0,
    ) -> None:
        self.task = task
        self.settings = settings
        self.accelerator = accelerator
        self.folder = folder
        self.metrics = metrics
        self.stop_signal = stop_signal
        self.seed = seed
        self.config = config
        self.num_workers = num_workers
        self.step = 0
        self.seconds = 0.0

        task.model.to(accelerator.device)
        self.optimizer = torch.optim.AdamW(
            task.parameter_groups(),
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.adam_weight_decay,
            eps=settings.adam_epsilon,
            fused=True,
        )
        # Not prepared by accelerate, which would step it once a process; it counts updates.
        self.lr_scheduler = get_scheduler(
            settings.lr_scheduler,
            self.optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=settings.max_train_steps,
        )
        self.average = AveragedWeights(task.model, settings.ema_decay) if settings.use_ema else None

    @property
    def global_batch_size(self) -> int:
        """Samples of one update, over all processes and micro-batches."""
        settings = self.settings
        return settings.train_batch_size * settings.gradient_accumulation_steps * self.accelerator.num_processes

    def fit(self) -> None:
        """Train to `max_train_steps`; afterwards the task's model holds the averaged weights, in evaluation mode.

        Raises:
            CheckpointError: If the newest training state is damaged or belongs to another global batch size.
            FloatingPointError: If the loss or the gradient of a logged step is not finite.
            RunStopped: If a signal came; the state has been saved.
        """
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
        wrapped = self.accelerator.prepare_model(self.task.model)
        optimizer = self.accelerator.prepare_optimizer(self.optimizer)
        wrapped.train()
        batches = self._batches()
        seconds_before, started = self.seconds, time.monotonic()
        try:
            while self.step < self.settings.max_train_steps:
                losses, grad_norm = self._update(wrapped, optimizer, batches)
                self.step += 1
                self.seconds = seconds_before + time.monotonic() - started
                report.advance()
                self._finish_step(report, losses, grad_norm)
        finally:
            report.close()
            self.accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
            self.accelerator.free_memory()
        if self.average is not None:
            self.average.copy_to_model()
        self.task.model.eval()

    def _finish_step(self, report: StageReport, losses: Mapping[str, torch.Tensor], grad_norm: torch.Tensor) -> None:
        """Log, validate, save and stop, where each is due."""
        settings = self.settings
        is_last = self.step == settings.max_train_steps
        if is_last or self.step % settings.logging_steps == 0:
            report.row(self.step, self._scalars(losses, grad_norm))
        if is_last or (settings.validation_steps is not None and self.step % settings.validation_steps == 0):
            self._validate(report)
        stop = self.stop_signal.agreed(self.accelerator)
        if stop or is_last or self.step % settings.checkpointing_steps == 0:
            self._save()
        if stop and not is_last:
            raise RunStopped(f"{stop} at {self.task.name} step {self.step}; run the same command again to resume")

    def _batches(self) -> Iterator[Batch]:
        settings = self.settings
        sampler = GlobalBatchSampler(
            order=order_of(self.task.dataset, self.seed),
            batch_size=settings.train_batch_size,
            accumulation=settings.gradient_accumulation_steps,
            rank=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            start_step=self.step,
            max_steps=settings.max_train_steps,
        )
        loader = DataLoader(
            self.task.dataset,
            batch_sampler=sampler,
            collate_fn=self.task.collate,
            num_workers=self.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        return iter(loader)

    def _update(
        self, wrapped: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[Batch]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Accumulate the gradient of one global batch and take one optimizer step."""
        accelerator, accumulation = self.accelerator, self.settings.gradient_accumulation_steps
        sums: dict[str, torch.Tensor] = {}
        for micro_batch in range(accumulation):
            # Dropout and the like, which no sample number keys: a resumed run draws the same.
            names = (self.task.name, self.step, accelerator.process_index, micro_batch)
            torch.manual_seed(stream_key(self.seed, "step", *names) % 2**63)
            batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in next(batches).items()}
            batch = self.task.prepare_batch(batch)
            is_last = micro_batch == accumulation - 1
            with nullcontext() if is_last else accelerator.no_sync(wrapped):
                means = {name: value.float().mean() / accumulation for name, value in wrapped(**batch).items()}
                accelerator.backward(means["loss"])
            for name, mean in means.items():
                sums[name] = sums[name] + mean.detach() if name in sums else mean.detach()
        grad_norm = accelerator.clip_grad_norm_(self.task.model.parameters(), self.settings.max_grad_norm)
        optimizer.step()
        self.lr_scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.step()
        return sums, grad_norm

    def _scalars(self, losses: Mapping[str, torch.Tensor], grad_norm: torch.Tensor) -> dict[str, float]:
        """Average a step's losses over all processes, and refuse numbers that are not finite."""
        means = self.accelerator.reduce(torch.stack(list(losses.values())), reduction="mean")
        scalars = dict(zip(losses, means.tolist(), strict=True))
        scalars["grad_norm"] = float(grad_norm)
        scalars["learning_rate"] = self.lr_scheduler.get_last_lr()[0]
        for name in ("loss", "grad_norm"):
            if not torch.isfinite(torch.tensor(scalars[name])):
                place = f"{self.task.name} step {self.step}"
                raise FloatingPointError(f"{place}: {name} is {scalars[name]}; the last training state stands")
        return scalars

    def _validate(self, report: StageReport) -> None:
        if self.accelerator.is_main_process:
            self.task.model.eval()
            with torch.no_grad(), self.average.applied() if self.average is not None else nullcontext():
                report.validation(self.step, self.task.validate(self.step))
            self.task.model.train()
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            tensors = {
                "model": trained_tensors(self.task.model),
                "optimizer": optimizer_tensors(self.optimizer, self.task.model),
            }
            if self.average is not None:
                tensors["ema"] = self.average.state_dict()
            values = {
                "stage": self.task.name,
                "seconds": self.seconds,
                "global_batch_size": self.global_batch_size,
                "versions": {"python": platform.python_version(), "torch": torch.__version__},
                "config": dict(self.config),
            }
            state = TrainingState(tensors, values)
            save_checkpoint(self.folder, self.step, state, self.settings.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        """Load the newest training state, if there is one."""
        checkpoints = list_checkpoints(self.folder)
        if not checkpoints:
            return
        state = load_checkpoint(checkpoints[-1])
        saved_size = state.values["global_batch_size"]
        if saved_size != self.global_batch_size:
            raise CheckpointError(
                f"{checkpoints[-1]} was trained with {saved_size} images an update, but processes x "
                f"{self.task.name}.gradient_accumulation_steps x {self.task.name}.train_batch_size is now "
                f"{self.global_batch_size}; the product must stay {saved_size}"
            )
        load_trained_tensors(self.task.model, state.tensors["model"])
        load_optimizer_tensors(self.optimizer, self.task.model, state.tensors["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state.tensors["ema"])
        self.step = state.values["step"]
        self.seconds = state.values["seconds"]
        self.lr_scheduler.last_epoch = self.step
        rates = zip(self.lr_scheduler.base_lrs, self.lr_scheduler.lr_lambdas, strict=True)
        for group, (base, factor) in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = base * factor(self.step)
